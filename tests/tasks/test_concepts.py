"""Concepts through a run: planned, stored, verified, withdrawn, and shown on the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared, stored

RESULT = {"name": "tcav", "concepts": ["bright", "random"], "classifier": "mean_difference"}
TITLE = "pooled_activations"


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """22 bright pictures, 22 that have nothing in common, 50 others of classes a and b."""
    cohort = Cohort(tmp_path / "cohort", range(94))
    for number in range(22):
        path = cohort.folder / f"{number}.npy"
        np.save(path, np.load(path) + np.float32(2))
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["label"] = ["bright"] * 22 + ["random"] * 22 + ["a", "b"] * 25
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    return cohort


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    asked = {"explainers": [TITLE], "results": [RESULT], "target": {"name": "classes", "classes": ["a", "b"]}}
    return cohort.content(output, **asked | {"compute": {"batch_size": 32}} | changes)


def test_concepts_are_stored_shown_and_withdrawn(cohort: Cohort, output: Location) -> None:
    assert carry_out(content(cohort, output), report=True).explained == 94
    assert verify(output) == []
    dataset = open_store(output).load()
    assert dataset.tcav_score.dims == ("tcav_concept", "class")
    assert dataset.tcav_direction.dims == ("tcav_concept", f"{TITLE}_feature")
    assert list(dataset.tcav_concept.values) == ["bright", "random"]
    assert dataset.tcav_flags.values.tolist() == [0, 4]
    assert dataset.tcav_accuracy.values[0] > 0.9 and np.isfinite(dataset.tcav_score.values[0]).all()
    assert np.isclose(np.linalg.norm(dataset.tcav_direction.values[0]), 1)
    page = (output / "report/index.html").read().decode()
    assert "<h3>Concepts</h3>" in page and "at chance" in page
    for subject in ("patient-0", "patient-1"):  # which leaves 18
        assert withdraw(output, subject).whole
    assert verify(output) == []
    after = open_store(output).load()
    assert after.tcav_flags.values.tolist() == [1, 4] and np.isnan(after.tcav_score.values).all()
    again = stored(output)
    assert carry_out(content(cohort, output)).withdrawn == 4
    assert stored(output) == again


def test_two_layers_have_concepts_of_their_own(cohort: Cohort, output: Location) -> None:
    explainers = [TITLE, {"name": TITLE, "layer": "net.layer_0.conv", "label": "early"}]
    results = [RESULT, RESULT | {"label": "early_tcav", "of": "early", "concepts": ["bright"]}]
    carry_out(content(cohort, output, explainers=explainers, results=results))
    dataset = open_store(output).load()
    assert verify(output) == []
    assert dataset.early_tcav_direction.dims == ("early_tcav_concept", "early_feature")
    assert dataset.early_tcav_score.shape == (1, 2) and dataset.tcav_score.shape == (2, 2)


def test_concepts_of_activations_that_are_not_stored_are_refused(cohort: Cohort, output: Location) -> None:
    with pytest.raises(ValueError, match="results: tcav is computed from early, early_gradient, which no explainer"):
        prepared(content(cohort, output, results=[RESULT | {"of": "early"}]))


def test_a_page_without_concepts_has_no_section_of_them(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output, results=[]), report=True)
    assert b"Concepts" not in (output / "report/index.html").read()
