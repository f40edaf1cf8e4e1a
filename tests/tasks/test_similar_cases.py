"""Similar cases in the store: they follow images that are added and withdrawn, and are shown beside the case."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from flows.demo import demo_content
from tasks.demo.cohort import write_cohort
from tasks.report.similar import Similar, retrieval
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared, stored


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    results = [{"name": "similar_cases", "neighbours": 3}]
    return cohort.content(output, **{"explainers": ["saliency", "embedding"], "results": results} | changes)


def by_id(dataset: xr.Dataset) -> dict[str, list[str]]:
    """The ids of the neighbours of each image that has any."""
    ids = dataset.image_id.values
    return {
        str(one): [str(ids[row]) for row in rows if row >= 0]
        for one, rows in zip(ids, dataset.similar_image.values, strict=True)
        if (rows >= 0).any()
    }


def test_they_are_stored_and_verified_and_found_by_hand(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(content(cohort, output), report=True)
    assert verify(output) == []
    dataset = open_store(output).load()
    assert dataset.embedding.dims == ("image_id", "feature") and dataset.embedding.attrs["kind"] == "vector"
    unit = dataset.embedding.values.astype(float)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    cosine = unit @ unit.T
    for row in range(10):
        cosine[row, row - row % 2 : row - row % 2 + 2] = -np.inf  # both images of the patient
    assert np.array_equal(dataset.similar_image.values, np.argsort(-cosine, axis=1)[:, :3])
    np.testing.assert_allclose(dataset.similar_cosine.values, -np.sort(-cosine, axis=1)[:, :3], atol=1e-6)


def test_they_are_found_again_when_an_image_is_added(cohort: Cohort, tmp_path: Path) -> None:
    output, at_once = (Location(url=str(tmp_path / name)) for name in ("out", "at-once"))
    carry_out(content(cohort, output))
    before = by_id(open_store(output).load())
    cohort.add([10])
    carry_out(content(cohort, output))
    carry_out(content(cohort, at_once))
    found = by_id(open_store(output).load())
    assert found == by_id(open_store(at_once).load()) and verify(output) == []
    assert len(found) == 11 and any("id-10" in near for near in found.values()) and found != before


def test_withdrawn_is_as_if_the_subject_had_not_been_there(cohort: Cohort, tmp_path: Path) -> None:
    output, without = (Location(url=str(tmp_path / name)) for name in ("out", "without"))
    carry_out(content(cohort, output))
    withdraw(output, "patient-2")
    cohort.take_away([4, 5])
    carry_out(content(cohort, without))
    found = open_store(output).load()
    assert verify(output) == [] and (found.similar_image.values[4:6] == -1).all()
    assert by_id(found) == by_id(open_store(without).load())
    kept = [row for row in range(10) if row not in (4, 5)]
    for name in ("similar_cosine", "similar_precision", "similar_chance"):
        expected = open_store(without)[name].values
        np.testing.assert_allclose(found[name].values[kept], expected, atol=1e-6, err_msg=name)


def test_they_extend_an_output_and_maps_can_be_compared(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output, explainers=["saliency"]))
    before = stored(output)
    by_map = {"name": "similar_cases", "label": "mapped", "of": "attribution", "explainer": "saliency"}
    carry_out(content(cohort, output, results=["similar_cases", by_map]), extend=True)
    assert verify(output) == [] and all(stored(output)[key] == data for key, data in before.items() if "/c/" in key)
    dataset = open_store(output).load()
    assert dataset.similar_image.shape == dataset.mapped_image.shape == (10, 5)
    assert not np.array_equal(dataset.similar_image, dataset.mapped_image)


def test_an_embedding_is_asked_for(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="similar_cases is computed from embedding, which no explainer"):
        prepared(content(cohort, output, explainers=["saliency"]))


def test_the_report_shows_them_beside_the_case_and_says_how_well_they_tell_labels(tmp_path: Path) -> None:
    manifest = write_cohort(tmp_path / "cohort", images=24, spatial_dims=2, damaged=0)
    demo = demo_content(str(manifest), str(tmp_path / "out"), spatial_dims=2)
    by_map = {"name": "similar_cases", "label": "mapped", "of": "attribution", "explainer": "saliency"}
    more = {"explainers": ["saliency", "embedding"], "metrics": [], "results": ["similar_cases", by_map]}
    carry_out(demo | more, report=True)
    page = " ".join((tmp_path / "out/report/index.html").read_text().split())
    dataset = open_store(Location(url=str(tmp_path / "out"))).load()
    shown = page.count('<article class="case"')
    assert page.count("nearest with the same label: ") == page.count("nearest with another label: ") == shown > 0
    one = dataset.sel(image_id=re.findall(r"<h4>(phantom-\d+)</h4>", page)[0])
    for kind in ("same", "other"):
        near = dataset.isel(image_id=int(one[f"similar_{kind}_label"]))
        assert (near.label == one.label) == (kind == "same")
        cosine = f"{float(one[f'similar_{kind}_label_cosine']):.3f}"
        assert f"{near.image_id.values}, labelled <b>{near.label.values}</b>, cosine {cosine}" in page
    mean = float(dataset.similar_precision.isel(neighbour=-1).mean())
    assert f'embedding</th><td class="number">5</td><td class="number">{mean:.3f} (' in page
    assert 'the maps of saliency</th><td class="number">1</td>' in page


def test_precision_is_held_against_chance() -> None:
    drawn = np.random.default_rng(0)
    chance = np.full(40, 0.5)
    dims = ("image_id", "neighbour")
    for good in (True, False):
        precision = np.clip(drawn.normal(0.9 if good else 0.5, 0.1, (40, 3)), 0, 1)
        precision[0] = np.nan
        dataset = xr.Dataset(
            {
                "similar_image": (dims, np.zeros((40, 3), np.int32)),
                "similar_precision": (dims, precision),
                "similar_chance": ("image_id", chance),
            }
        )
        similar = Similar(dataset, np.arange(40), "similar", "embedding")
        first, last = retrieval(similar, [f"s{row // 2}" for row in range(40)])
        assert (first.k, last.k, last.images, last.differs) == (1, 3, 39, good)
        assert last.precision.value == pytest.approx(np.nanmean(precision[:, 2]))
        assert last.precision.low < last.precision.value < last.precision.high and last.chance.value == 0.5
        assert not list(retrieval(Similar(dataset[["similar_image"]], np.arange(40), "similar", "maps"), []))
