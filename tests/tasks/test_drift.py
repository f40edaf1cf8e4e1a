"""The drift alarm: which means got worse, and which are no reason for one."""

from pathlib import Path

import numpy as np
import pytest

from tasks.report.drift import TABLE, directions, read_evidence, worsened
from tasks.report.statistics import evidence
from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, carry_out

BETTER = {"auc": "higher", "gap": "lower", "gini": "none"}


def table(auc: float, gap: float, gini: float = 0.5, images: int = 60) -> object:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 0.05, (images, 1, 2))
    scores = {"auc": auc + noise, "gap": gap + noise, "gini": gini + noise}
    classes = np.full((images, 1), "lesion")
    patients = [str(image) for image in range(images)]
    return evidence(scores, ["gradcam", "control_random"], classes, patients, ["control_random"], resamples=200)


@pytest.mark.parametrize(
    ("auc", "gap", "worse"),
    [
        (0.80, 0.30, set()),
        (0.79, 0.31, set()),  # inside the interval, whose half width is 0.05 * 1.96 / sqrt(60) = 0.013
        (0.77, 0.30, {"auc"}),
        (0.90, 0.10, set()),  # outside, on the better side
        (0.80, 0.33, {"gap"}),
        (0.70, 0.50, {"auc", "gap"}),
    ],
)
def test_a_mean_outside_the_earlier_interval_on_the_worse_side_is_told(auc: float, gap: float, worse: set[str]) -> None:
    found = worsened(table(0.80, 0.30), table(auc, gap, gini=0.1), BETTER)
    assert {drift.metric for drift in found} == worse
    assert {drift.explainer for drift in found} <= {"gradcam"}
    assert {drift.of_class for drift in found} == ({"all", "lesion"} if worse else set())


def test_what_one_table_lacks_is_not_compared_and_the_table_comes_back_from_the_report(tmp_path: object) -> None:
    output = Location(url=str(tmp_path))
    assert read_evidence(output) is None
    assert worsened(None, table(0.8, 0.3), BETTER) == worsened(table(0.8, 0.3), None, BETTER) == []
    (output / TABLE).write(table(0.8, 0.3).to_csv(lineterminator="\n").encode())
    before = read_evidence(output)
    assert before is not None
    now = table(0.5, 0.3).drop(index="auc", level="metric")
    assert worsened(before, now, BETTER) == []
    told = worsened(before, table(0.5, 0.3), BETTER)
    assert "auc of gradcam, class all: mean 0." in str(told[0])


def test_what_a_metric_is_read_with_has_no_better_direction(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "output"))
    metrics = ["auprc", "gini", "entropy"]
    carry_out(Cohort(tmp_path / "cohort", range(4)).content(output, metrics=metrics), report=True)
    assert directions(output) == {"auprc": "higher", "gini": "higher", "entropy": "lower"}
    table = read_evidence(output)
    assert table is not None
    assert set(table.index.get_level_values("metric")) == set(metrics)
