"""Benchmarks in their smallest form: they run, whatever they measure here."""

from pathlib import Path

import pytest

from tests.benchmarks import evidence_results, explainers, metrics, results, run_against_bare_loop


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


@pytest.mark.parametrize(
    "name", ["gini", "iou", "deletion", "irof", "max_sensitivity", "relative_representation_stability", "smooth_mprt"]
)
def test_the_line_of_a_metric_is_printed(name: str) -> None:
    setting = metrics.Setting(explainers.network_of(2), explainers.images_of(2, metrics.IMAGES), 8)
    assert name in metrics.NAMES
    assert metrics.line(setting, name).startswith(name)


def test_lines_of_results_are_printed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "IMAGES", {"tcav": 100, "similar_cases": 50})
    monkeypatch.setattr(results, "OF_CONCEPT", 2)
    monkeypatch.setattr(results, "FEATURES", 32)
    monkeypatch.setattr(results, "KEPT_OF", 2)
    monkeypatch.setattr(results, "PAIRS", 1)
    for name in results.IMAGES:
        assert results.line_of(name).startswith(name)
    assert "goal: 1.05" in results.line_of_the_pass("layer3")


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
def test_the_line_of_a_run_is_printed(
    case: str,
    prefect: str,
    slices: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(run_against_bare_loop, "WORKERS", 1)
    monkeypatch.setattr(run_against_bare_loop, "SECONDS", 0.1)
    monkeypatch.setattr(run_against_bare_loop, "BATCH", 4)
    run_against_bare_loop.print_case(case, (2, 4), slices, tmp_path)
    assert capsys.readouterr().out.startswith(f"{case}: run ")
