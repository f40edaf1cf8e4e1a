"""Shortcuts through a run: planned, stored, verified, withdrawn, and shown on the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared

RESULTS = [
    {"name": "shortcuts", "explainer": "saliency", "clusters": 3},
    {"name": "shortcuts", "label": "groups", "of": "embedding", "clusters": 2},
]


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    return Cohort(tmp_path / "cohort", range(10))


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    return cohort.content(output, **{"explainers": ["saliency", "embedding"], "results": RESULTS} | changes)


def test_they_are_stored_and_withdrawn(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(content(cohort, output))
    assert verify(output) == []
    dataset = open_store(output).load()
    assert dataset.shortcut_map.dims == ("cluster", "y", "x") and dataset.groups_share.dims == ("groups_clusters",)
    shares = [(dataset.shortcut_cluster == one).values.mean() for one in range(3)]
    np.testing.assert_allclose(dataset.shortcut_share.values, shares, atol=1e-6)
    assert dataset.shortcut_flags.attrs["flag_meanings"] == "alike one_place labels_differ covariates_differ"
    without = Location(url=str(tmp_path / "without"))
    withdraw(output, "patient-2")
    cohort.take_away([4, 5])
    carry_out(content(cohort, without))
    left, expected = open_store(output).load(), open_store(without).load()
    assert verify(output) == [] and (left.shortcut_cluster.values[4:6] == -1).all()
    for name in ("shortcut_map", "shortcut_share", "shortcut_p", "groups_alikeness"):
        np.testing.assert_allclose(left[name].values, expected[name].values, atol=1e-5, err_msg=name)


def test_wrong_predictions_do_not_depend_on_concepts_that_labels_name(cohort: Cohort, output: Location) -> None:
    table = pd.read_csv(cohort.folder / "manifest.csv")
    asked = content(cohort, output, explainers=["saliency", "embedding", "pooled_activations"])
    table.assign(label="a|striped").to_csv(cohort.folder / "manifest.csv", index=False)
    carry_out(asked)
    assert np.isnan(open_store(output).shortcut_error.values).all()
    results = [*RESULTS, {"name": "tcav", "concepts": ["striped"]}]
    carry_out(asked | {"results": results})
    dataset = open_store(output).load()
    wrong = dataset.logit.values.argmax(1) != 0
    expected = [wrong[dataset.shortcut_cluster.values == one].mean() for one in range(3)]
    np.testing.assert_allclose(dataset.shortcut_error.values, expected)
    assert verify(output) == []


def test_maps_need_the_name_of_their_explainer(cohort: Cohort, output: Location) -> None:
    with pytest.raises(ValueError, match="shortcuts compares maps, but its explainer is None: set `explainer` to one"):
        prepared(content(cohort, output, results=["shortcuts"]))


def test_a_page_shows_clusters_and_without_them_has_no_section(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output), report=True)
    page = (output / "report/index.html").read().decode()
    assert page.count("<h3>Explained alike") == 2 and page.count("mean map of cluster") == 3
    carry_out(content(cohort, output, results=[]), overwrite=True, report=True)
    assert b"Explained alike" not in (output / "report/index.html").read()
