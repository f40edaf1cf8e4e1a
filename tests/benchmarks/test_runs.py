"""Benchmarks in their smallest form: they run, whatever they measure here."""

from pathlib import Path
from types import ModuleType

import pytest

from tests.benchmarks import evidence_results, explainers, metrics, results, run_against_bare_loop


@pytest.fixture(autouse=True)
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explainers, "SHAPES", {2: (32, 32), 3: (16, 16, 16)})
    monkeypatch.setattr(explainers, "best_batch", lambda dims, backward: 8)
    monkeypatch.setattr(explainers, "PAIRS", 1)
    monkeypatch.setattr(metrics, "PAIRS", 1)
    monkeypatch.setattr(metrics, "IMAGES", 2)


def test_lines_of_explainers_are_printed() -> None:
    for case in explainers.plain_cases():
        assert explainers.line(case).startswith(case.name)


@pytest.mark.parametrize(
    "name", ["gini", "iou", "deletion", "irof", "max_sensitivity", "relative_representation_stability", "smooth_mprt"]
)
def test_the_line_of_a_metric_is_printed(name: str) -> None:
    setting = metrics.Setting(explainers.network_of(2), explainers.images_of(2, metrics.IMAGES), 8)
    assert name in metrics.NAMES
    assert metrics.line(setting, name).startswith(name)


@pytest.mark.parametrize("module", [explainers, metrics])
def test_ratios_are_measured_with_their_goals(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "best_batch", lambda dims, backward: 8)
    found = list(module.ratios())
    assert len({one.name for one in found}) == len(found)
    for one in found:
        assert one.ratio > 0
        assert one.goal is not None
        assert one.error is None or one.error < 1e-2


def test_lines_of_results_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "IMAGES", {"tcav": 100, "similar_cases": 50})
    monkeypatch.setattr(results, "OF_CONCEPT", 2)
    monkeypatch.setattr(results, "FEATURES", 32)
    monkeypatch.setattr(results, "KEPT_OF", 2)
    monkeypatch.setattr(results, "PAIRS", 1)
    lines = list(results.ratios())
    assert [line.goal for line in lines] == [1.05, None, None]
    assert all(line.ratio > 0 for line in lines)


def test_the_section_of_results_takes_the_place_of_the_one_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(evidence_results, "SHOWING", 20)
    monkeypatch.setattr(evidence_results, "RANDOM", ("random 1",))
    monkeypatch.setattr(evidence_results, "LAYERS", ("blocks.3",))
    monkeypatch.setattr(evidence_results, "EXPLAINERS", ("guided_gradcam",))
    page = tmp_path / "evidence.md"
    page.write_text(f"# Evidence\n\n{evidence_results.HEADING}\n\nof another day\n")
    evidence_results.write_section(page, 60, 1)
    text = page.read_text()
    assert text.startswith(f"# Evidence\n\n{evidence_results.HEADING}\n") and "of another day" not in text
    assert "| `guided_gradcam` | yes |" in text and "nan" not in text


@pytest.mark.parametrize("case", [name for name in run_against_bare_loop.CASES if "ResNet" in name])
def test_a_run_is_held_against_the_bare_loop(case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("WORKERS", 1), ("SECONDS", 0.1), ("FILES", 8)):
        monkeypatch.setattr(run_against_bare_loop, name, value)
    run, bare = run_against_bare_loop.measure(case, 48, tmp_path)
    assert run.first_commit > 0 and run.pace > 0 and bare.pace > 0
    assert run.cpu > bare.cpu > 0
    assert 0 < run.around < 10
