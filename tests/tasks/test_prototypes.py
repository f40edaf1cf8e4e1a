"""Prototypes in the store: they are found again when images are added in any order, and withdrawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    results = [{"name": "prototypes", "prototypes": 2, "criticisms": 2}]
    return cohort.content(output, **{"explainers": ["saliency", "embedding"], "results": results} | changes)


def by_id(dataset: xr.Dataset) -> dict[str, list[list[str]]]:
    ids = [*map(str, dataset.image_id.values), ""]
    names = ("prototype_image", "prototype_criticism")
    return {name: [[ids[row] for row in rows] for rows in dataset[name].values] for name in names}


def test_they_are_stored_and_verified(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(content(cohort, output), report=True)
    assert verify(output) == []
    dataset = open_store(output).load()
    assert dataset.prototype_image.dims == ("class", "prototype_rank")
    predicted = dataset.logit.values.argmax(1)
    for index, rows in enumerate(dataset.prototype_image.values):
        assert (predicted[rows[rows >= 0]] == index).all()
    page = " ".join((tmp_path / "out/report/index.html").read_text().split())
    shown = int((dataset.prototype_image >= 0).sum() + (dataset.prototype_criticism >= 0).sum())
    section = page[page.index("<h3>Prototypes</h3>") : page.index('<h2 id="cases">')]
    assert section.count("<figure>") == shown > 2
    row = dataset.prototype_image.max()
    share = float(dataset.prototype_share.where(dataset.prototype_image == row).max())
    label = f"labelled <b>{dataset.label.values[row]}</b>"
    assert f"{dataset.image_id.values[row]}, {label}, stands for {100 * share:.0f} %" in section


def test_they_are_found_again_when_images_are_added(cohort: Cohort, tmp_path: Path) -> None:
    output, at_once = (Location(url=str(tmp_path / name)) for name in ("out", "at-once"))
    carry_out(content(cohort, output))
    before = by_id(open_store(output).load())
    cohort.add(range(10, 16))
    carry_out(content(cohort, output))
    cohort.numbers.reverse()
    cohort.add([])
    carry_out(content(cohort, at_once))
    found = by_id(open_store(output).load())
    assert found == by_id(open_store(at_once).load()) and found != before and verify(output) == []


def test_withdrawn_is_as_if_the_subject_had_not_been_there(cohort: Cohort, tmp_path: Path) -> None:
    output, without = (Location(url=str(tmp_path / name)) for name in ("out", "without"))
    carry_out(content(cohort, output))
    row = int(open_store(output).load().prototype_image.max())
    withdraw(output, f"patient-{row // 2}")
    cohort.take_away([row - row % 2, row - row % 2 + 1])
    carry_out(content(cohort, without))
    found, expected = open_store(output).load(), open_store(without).load()
    assert verify(output) == [] and row not in found.prototype_image
    assert by_id(found) == by_id(expected)
    np.testing.assert_array_equal(found.prototype_share, expected.prototype_share)


def test_an_embedding_is_asked_for(cohort: Cohort, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="prototypes is computed from embedding, which no explainer"):
        prepared(content(cohort, Location(url=str(tmp_path / "out")), explainers=["saliency"]))
