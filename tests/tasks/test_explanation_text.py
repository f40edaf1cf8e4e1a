"""Texts in the store: they follow what their sentences are made of, in any order, and are verified and withdrawn."""

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import zarr
from numcodecs import Blosc

from models.metrics import METRICS
from tasks import run
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.prepare.metrics import add_metrics
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work import results
from tasks.work.engines import Engines
from tasks.work.evaluate import evaluate_shards, evaluated_pieces
from tests.tasks.outputs import Cohort, carry_out, prepared, stored

SIMILAR = {"name": "similar_cases", "neighbours": 3}
SHORTCUTS = {"name": "shortcuts", "clusters": 2, "explainer": "saliency"}


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Ten pictures in three shards; the classes of odd and even ones differ."""
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    cohort = Cohort(tmp_path / "cohort", range(10))
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["label"] = ["a", "b"] * 5
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    return cohort


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    asked = {"explainers": ["saliency", "embedding"], "results": ["words", SIMILAR]}
    return cohort.content(output, **asked | changes)


def texts(output: Location) -> list[str]:
    return [str(text) for text in open_store(output).explanation_text.values]


def computed(output: Location) -> dict[str, bytes]:
    return {key: data for key, data in stored(output).items() if "/c/" in key}


def test_a_text_is_stored_as_the_labels_are_and_says_what_other_results_have(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    dataset = open_store(output).load()
    assert dataset.explanation_text.dims == ("image_id",) and dataset.explanation_text.dtype == dataset.label.dtype
    array = zarr.open_array(f"{output.url}/{NAME}/explanation_text", mode="r")
    assert array.metadata.to_dict()["data_type"] == "string" and array.chunks == (4,)
    for one in (dataset.isel(image_id=row) for row in range(10)):
        probability = one.probability.values
        text, called = str(one.explanation_text.values), ("a", "b")[probability.argmax()]
        same = sum(dataset.label.values[row] == called for row in one.similar_image.values)
        cosine = float(one.similar_cosine[0])
        assert text.startswith(f"The network predicts {called} with a probability of {100 * probability.max():.0f} %.")
        assert f"By embedding, the nearest case of another subject has a cosine of {cosine:.3f}." in text
        assert f"Of the 3 nearest cases by embedding, {same} ha" in text
    assert verify(output) == []


def test_the_order_of_results_decides_nothing(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    other = Location(url=str(tmp_path / "other"))
    by_map = SIMILAR | {"label": "by_map", "of": "attribution", "explainer": "saliency"}
    carry_out(content(cohort, output, results=["words", SHORTCUTS, by_map, SIMILAR]))
    carry_out(content(cohort, other, results=[SIMILAR, "words"]))
    carry_out(content(cohort, other, results=[SIMILAR, "words", SHORTCUTS, by_map]))
    assert computed(output) == computed(other)
    assert [one.title for one in results.in_order(Plan.read(output))][-1] == "words"


def test_a_text_follows_results_and_metrics_that_are_added(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(content(cohort, output, results=["words"]))
    assert not any("nearest case" in text or "mask" in text for text in texts(output))
    carry_out(content(cohort, output))
    assert all("nearest case" in text and "mask" not in text for text in texts(output))
    add_metrics(output, [METRICS.kinds["relevance_mass"]()], Engines())
    run.complete(output, Engines())
    assert all("nearest case" in text and "The mask holds" in text for text in texts(output))
    at_once = Location(url=str(tmp_path / "at-once"))
    carry_out(content(cohort, at_once, metrics=["relevance_mass"]))
    assert verify(output) == [] and computed(output) == computed(at_once)


def test_a_text_says_nothing_of_a_metric_that_is_promised_and_not_there(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    add_metrics(output, [METRICS.kinds["relevance_mass"]()], Engines())
    results.forget(output, "words")
    results.compute_results(output, Engines())
    assert all("nearest case" in text and "mask" not in text for text in texts(output))


def test_a_text_waits_for_what_it_reads(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    before = stored(output)
    results.forget(output, "similar_cases")
    assert [one.title for one in results.uncomputed(output, Plan.read(output))] == ["similar_cases", "words"]
    run.complete(output, Engines())
    assert verify(output) == [] and stored(output) == before
    results.forget(output, "words")
    assert [one.title for one in results.uncomputed(output, Plan.read(output))] == ["words"]


@pytest.mark.parametrize("key", ["explanation_text/c/1", "similar_image/c/1/0"])
def test_damage_is_mended_to_the_byte(cohort: Cohort, output: Location, key: str) -> None:
    carry_out(content(cohort, output))
    before = stored(output)
    (output / NAME / key).write(before[key][:-1])
    found = verify(output)
    assert [one.where for one in found] == [key]
    repair(output, found)
    assert verify(output) == [] and stored(output) == before


def test_what_is_withdrawn_or_quarantined_has_no_text(
    cohort: Cohort, output: Location, caplog: pytest.LogCaptureFixture
) -> None:
    (cohort.folder / "9.npy").write_bytes(b"no image")
    asked = content(cohort, output)
    asked["cohort"]["allowed_failures"] = 1.0
    with caplog.at_level(logging.DEBUG):
        carry_out(asked)
        assert [row for row, text in enumerate(texts(output)) if not text] == [9]
        withdraw(output, "patient-2")
    assert [row for row, text in enumerate(texts(output)) if not text] == [4, 5, 9]
    assert verify(output) == []
    dataset = open_store(output).load()
    assert np.isin(dataset.similar_image.values, [4, 5]).sum() == 0
    again = stored(output)
    assert carry_out(asked).withdrawn == 2 and stored(output) == again
    assert not any(text and text in caplog.text for text in texts(output))


def test_no_result_stays_of_a_subject_that_is_withdrawn_before_the_run_is_finished(
    cohort: Cohort, output: Location
) -> None:
    carry_out(content(cohort, output))
    cohort.add(range(10, 14))
    ready = prepared(content(cohort, output))
    ready.plan.write(output, ready.entries)
    assert not withdraw(output, "patient-2").whole
    assert not [key for key in computed(output) if key.startswith(("explanation_text/", "similar_"))]
    assert carry_out(content(cohort, output)).withdrawn == 2
    assert verify(output) == [] and [row for row, text in enumerate(texts(output)) if not text] == [4, 5]


@pytest.mark.parametrize("evaluated", [(), (1,)])
@pytest.mark.parametrize("lost", [(), ("commits/000002.json",)])
def test_nothing_stays_of_a_subject_that_is_withdrawn_before_metrics_are_computed(
    cohort: Cohort, output: Location, evaluated: tuple[int, ...], lost: tuple[str, ...]
) -> None:
    carry_out(content(cohort, output), report=True)
    add_metrics(output, [METRICS.kinds["relevance_mass"]()], Engines())
    evaluate_shards(output, evaluated, Engines())
    for name in lost:
        (output / name).remove()
    assert not withdraw(output, "patient-2").whole
    assert "report/index.html" not in output.sizes()
    shard = Plan.read(output).shards[1]
    for key in (piece.key for piece in evaluated_pieces(Plan.read(output), shard) if piece.key in stored(output)):
        values = np.frombuffer(Blosc().decode((output / NAME / key).read()), "<f4").reshape(shard.images, -1)
        assert np.isnan(values[:2]).all()
    assert run.complete(output, Engines()).withdrawn == 2
    assert verify(output) == []
    assert [row for row, text in enumerate(texts(output)) if not text] == [4, 5]


def test_the_report_shows_the_text_and_does_not_repeat_the_prediction(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output), report=True)
    page = " ".join((output / "report/index.html").read().decode().split())
    assert page.count('<p class="words">The network predicts') == page.count('<article class="case"') > 0
    assert sum(text.replace("'", "&#39;") in page for text in texts(output)) == page.count('<article class="case"')
    assert "The model says" not in page and "lies the peak of saliency" in page
