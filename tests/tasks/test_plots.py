"""The plots of the report: what they say in words and how large they are."""

import re
from pathlib import Path

import numpy as np
import pytest

from tasks.report import plots
from tasks.report.evidence import Cell, Column, Curve, Family, curves
from tasks.storage.location import Location
from tasks.store.template import open_store
from tests.tasks.outputs import Cohort, carry_out


def family(*means: list[float]) -> Family:
    columns = [Column(f"metric-{number}", "higher", "") for number in range(len(means[0]))]
    rows = [(f"explainer-{n}", [Cell(mean, mean - 1, mean + 1, False) for mean in row]) for n, row in enumerate(means)]
    return Family("faithfulness", columns, rows)


def size(svg: str) -> tuple[float, float]:
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', svg)
    assert found
    return float(found[1]), float(found[2])


def test_many_metrics_take_several_lines() -> None:
    five, eight, nine = (size(plots.family_plot(family([1.0] * count, [2.0] * count))) for count in (5, 8, 9))
    assert eight < five
    assert nine == pytest.approx((five[0], 2 * five[1]))


@pytest.mark.parametrize(("largest", "expected"), [(4000.0, True), (40.0, False)])
def test_a_mean_that_is_far_larger_does_not_hide_the_others(largest: float, expected: bool) -> None:
    svg = plots.family_plot(family([1.0], [2.0], [largest], [np.nan]))
    assert ("10^{3}" in svg or r"\mathdefault" in svg) == expected


def test_curves_of_sanity_name_their_layers_and_the_level_of_noise(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "output"))
    metrics = ["cascading_randomisation", {"name": "deletion", "points": 3}]
    carry_out(Cohort(tmp_path / "cohort", range(4)).content(output, metrics=metrics))
    dataset = open_store(output)
    found: dict[tuple[str, str], Curve] = {(curve.metric, curve.name): curve for curve in curves(dataset)}
    layers = found["cascading_randomisation", "ssim"]
    assert layers.noise == pytest.approx(dataset["metric_cascading_randomisation_random_ssim"].mean().item())
    svg = plots.curve_plot(layers)
    assert all(f">{layer}<" in svg for layer in ("pairs of noise", *layers.points))
    deletion = found["deletion", "probability"]
    assert deletion.noise is None
    assert "pairs of noise" not in plots.curve_plot(deletion)
