"""Benchmarks in their smallest form: they run, whatever they measure here."""

import pytest

from tests.benchmarks import explainers, metrics


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explainers, "SHAPES", {2: (32, 32), 3: (16, 16, 16)})
    monkeypatch.setattr(explainers, "best_batch", lambda network, backward: 8)
    monkeypatch.setattr(explainers, "PAIRS", 1)
    monkeypatch.setattr(metrics, "PAIRS", 1)
    monkeypatch.setattr(metrics, "IMAGES", 2)


def test_lines_of_explainers_are_printed() -> None:
    for case in explainers.plain_cases():
        assert explainers.line(case).startswith(case.name)


@pytest.mark.parametrize("name", ["gini", "iou", "deletion", "max_sensitivity", "cascading_randomisation"])
def test_the_line_of_a_metric_is_printed(name: str) -> None:
    setting = metrics.Setting(explainers.network_of(2), explainers.images_of(2, metrics.IMAGES), 8)
    assert name in metrics.NAMES
    assert metrics.line(setting, name).startswith(name)
