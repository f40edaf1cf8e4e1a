"""Prototypes of a network in the store and in the report, and without a subject that was withdrawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared, squares_model

NETWORK = {
    "_target_": "models.networks.PrototypeClassifier",
    "spatial_dims": 2,
    "in_channels": 1,
    "num_classes": 2,
    "prototypes": 2,
    "features": [4, 6],
}
RESULT = {"name": "prototype_patches", "patches": 3}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(10))


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    named: dict[str, Any] = {"explainers": ["prototype_activation", "saliency"], "results": [RESULT]}
    if "model" not in changes:
        named["model"] = squares_model(cohort.folder, ("a", "b"), NETWORK)
    return cohort.content(output, **named | changes)


def test_they_are_stored_shown_and_forgotten_with_a_subject(cohort: Cohort, tmp_path: Path) -> None:
    output, without = (Location(url=str(tmp_path / name)) for name in ("out", "without"))
    carry_out(content(cohort, output), report=True)
    assert verify(output) == []
    dataset = open_store(output).load()
    assert dataset.patch_image.dims == ("prototype", "patch_rank")
    assert list(dataset.prototype.values) == ["a 1", "a 2", "b 1", "b 2"]
    rows, first = dataset.patch_image.values, dataset.isel(prototype=0)
    assert (first.patch_similarity[0] == first.prototype_similarity.max()).all()
    np.testing.assert_array_equal(first.patch_place[0], first.prototype_place[rows[0, 0]])
    page = " ".join((tmp_path / "out/report/index.html").read_text().split())
    section = page[page.index("<h3>Prototypes of the network</h3>") : page.index('<h2 id="cases">')]
    assert section.count("<figure>") == rows.size and section.count("<h4>") == 4
    shown = f"labelled <b>{dataset.label.values[rows[0, 0]]}</b>, similarity {float(first.patch_similarity[0]):.2f}"
    assert f"{dataset.image_id.values[rows[0, 0]]}, {shown}" in section

    row = int(rows[0, 0])
    withdraw(output, f"patient-{row // 2}")
    cohort.take_away([row - row % 2, row - row % 2 + 1])
    carry_out(content(cohort, without))
    found, expected = open_store(output).load(), open_store(without).load()
    assert verify(output) == [] and row not in found.patch_image
    ids = [[str(each.image_id.values[one]) for one in each.patch_image.values.ravel()] for each in (found, expected)]
    assert ids[0] == ids[1]
    np.testing.assert_array_equal(found.patch_place, expected.patch_place)


def test_prototypes_are_asked_for(cohort: Cohort, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    with pytest.raises(ValueError, match="prototype_activation: Classifier declares no layer of prototypes"):
        prepared(content(cohort, output, model=cohort.model))
    with pytest.raises(ValueError, match="prototype_patches is computed from prototype_similarity, prototype_place"):
        prepared(content(cohort, output, explainers=["saliency"]))
