from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from flows.cli import main
from flows.demo import demo_content
from tasks.finish import Summary


@pytest.fixture
def config(tmp_path: Path, slices: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(demo_content(str(slices), str(tmp_path / "out"), spatial_dims=2)))
    return path


@pytest.mark.parametrize("verb", ["demo", "plan", "run", "status", "verify", "withdraw", "train"])
def test_every_verb_shows_an_example(verb: str) -> None:
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: cohortlens {verb}" in result.output


def test_plan_says_what_would_run_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 0, result.output
    assert "images             39, of them 0 quarantined" in result.output
    assert "forward passes     39" in result.output
    assert "backward passes    39" in result.output
    assert "saliency, input_x_gradient, gradcam, attention for lesion" in result.output
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_plan_counts_every_question(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["explainers"] = ["gradcam", {"name": "integrated_gradients", "steps": 5}, {"name": "rise", "samples": 3}]
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert f"forward passes     {39 * (1 + 5 + 3)}" in result.output
    assert f"backward passes    {39 * (1 + 5)}" in result.output


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("model.weights", "missing.safetensors", "model.weights: there is no file"),
        ("model.classes", ["a", "b", "c"], "(1, 3) was expected"),
        ("explainers", [{"name": "gradcam", "layer": "block.2"}], "the nearest names are"),
        ("target", {"name": "classes", "classes": ["tumour"]}, "target names ['tumour']"),
        ("cohort.source", "nowhere/*.dcm", "there are no files at"),
        ("cohort.preprocessing", [{"_target_": "os.system", "command": "true"}], "not allowed here"),
        ("cohort.preprocessing", [{"_target_": "monai.transforms.RandFlip"}], "is random"),
        ("compute.memory_per_worker", "100MB", "but it may use 0.1 GiB"),
        ("chort", 1, "there is no such field"),
    ],
)
def test_what_a_user_can_mend_ends_with_exit_code_2_and_a_message(
    config: Path, path: str, value: object, message: str
) -> None:
    content = yaml.safe_load(config.read_text())
    place = content
    *parents, last = path.split(".")
    for part in parents:
        place = place.setdefault(part, {})
    place[last] = value
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 2
    assert message in result.output
    assert "Traceback" not in result.output


def test_an_output_that_holds_something_else_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.docx").write_text("precious")
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 2
    assert "holds files that are of no run" in result.output


def test_status_counts_images_by_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"image constant": 1, "map blank": 2}
    summary = Summary(5, 4, 1, 0, 0, 0, 0, 3, 1, 1, 9, 1000, flags, {})
    monkeypatch.setattr("tasks.finish.summarise", lambda output: summary)
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert "flagged       3\n  image constant: 1\n  map blank: 2\n" in result.output


def test_plan_says_how_many_images_are_the_background(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["explainers"] = [{"name": "expected_gradients", "samples": 2}]
    content["cohort"]["background"] = 5
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert "background         5 images of the cohort" in result.output
    assert f"forward passes     {39 * 3}" in result.output


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_place_without_a_run_is_a_usage_error(verb: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [verb, str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no run at" in result.output
