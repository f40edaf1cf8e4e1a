"""The cost of a plan, counted by hand."""

from pathlib import Path
from typing import Any

import pytest

from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, prepared


@pytest.mark.parametrize(
    ("asked", "forward", "backward"),
    [
        ({}, 0, 0),
        ({"metrics": ["gini"]}, 1, 0),  # what the maps explain
        ({"metrics": [{"name": "deletion", "points": 4, "patch": 4}]}, 5, 0),  # and three shares hidden, and all
        ({"uncertainty": [{"name": "test_time_augmentation", "samples": 3}]}, 1 + 3, 3),
    ],
)
def test_what_evaluates_the_maps_is_forecast_with_what_makes_them(
    tmp_path: Path, asked: dict[str, Any], forward: int, backward: int
) -> None:
    cohort = Cohort(tmp_path / "cohort", range(4))
    content = cohort.content(Location(url=str(tmp_path / "out")), explainers=["saliency"], **asked)
    cost = prepared(content).cost
    assert (cost.forward_passes, cost.backward_passes) == (4 * (1 + forward), 4 * (1 + backward))
    assert (cost.evaluating_hours > 1e-7) == bool(asked) and cost.hours > cost.evaluating_hours
