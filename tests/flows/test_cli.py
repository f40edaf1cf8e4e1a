import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import httpx
import numpy as np
import pandas as pd
import pytest
import yaml
from click.testing import CliRunner, Result
from pydantic import BaseModel

from flows.cli import main
from flows.cli.printing import print_damage
from flows.config import RunConfig
from flows.demo import demo_content
from flows.errors import Stopped
from models.errors import ConfigurationError
from tasks.plain import plain
from tasks.storage.lease import Occupied
from tasks.storage.location import CredentialsRefused, Location
from tasks.storage.s3 import PatientS3
from tasks.upkeep.verify import Damage
from tasks.work.failures import TooManyFailures
from tasks.work.finish import Incomplete, Summary
from tests.models.test_forms import IMAGES, as_onnx, small
from tests.seaweedfs import free_ports


@pytest.fixture
def config(tmp_path: Path, slices: Path) -> Path:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(demo_content(str(slices), str(tmp_path / "out"), spatial_dims=2)))
    return path


@pytest.mark.parametrize(
    "verb", ["demo", "plan", "ratings", "run", "status", "train", "verify", "view", "which", "withdraw"]
)
def test_every_verb_shows_an_example(verb: str) -> None:
    result = CliRunner().invoke(main, [verb, "--help"])
    assert result.exit_code == 0
    assert f"Example: cohortlens {verb}" in result.output


def test_plan_says_what_would_run_and_writes_nothing(config: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 0, result.output
    assert "images 39, of them 0 quarantined" in " ".join(result.output.split())
    assert f"forward passes {39}" in " ".join(result.output.split())  # its metrics ask for none
    assert "backward passes 39" in " ".join(result.output.split())
    assert "saliency, input_x_gradient, gradcam, attention, control_random, control_edges for lesion" in result.output
    assert "form PyTorch: offers every explainer" in " ".join(result.output.split())
    assert [path.name for path in tmp_path.iterdir()] == ["run.yaml"]


def test_plan_says_the_form_of_the_network_and_the_explainers_that_it_offers(tmp_path: Path) -> None:
    for number, image in enumerate(IMAGES):
        np.save(tmp_path / f"{number}.npy", image[0].numpy())
    (tmp_path / "model.onnx").write_bytes(as_onnx(small()))
    content = {
        "cohort": {"source": str(tmp_path / "*.npy")},
        "model": {"weights": str(tmp_path / "model.onnx"), "classes": ["a", "b"], "input_shape": [12, 10]},
        "explainers": ["occlusion"],
        "output": str(tmp_path / "out"),
    }
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "run.yaml")])
    assert result.exit_code == 0, result.output
    offered = re.findall(r"form ONNX: offers (.*?) shards", " ".join(result.output.split()))[0].split(", ")
    assert {"prediction", "occlusion", "rise", "lime", "control_edges"} <= {*offered}
    assert not {"saliency", "gradcam", "lrp", "attention"} & {*offered}
    told = json.loads(CliRunner().invoke(main, ["plan", str(tmp_path / "run.yaml"), "--json"]).stdout)
    assert told["form"] == "ONNX" and told["offered"] == offered


def test_plan_of_some_images_says_so_and_knows_dicoms_modalities(config: Path) -> None:
    result = CliRunner().invoke(main, ["plan", str(config), "--modality", "MR", "--modified-after", "2020-01-01"])
    assert "images 13, of them 0 quarantined" in " ".join(
        result.output.split()
    )  # every third is DICOM; the damaged are none
    result = CliRunner().invoke(main, ["plan", str(config), "--modality", "MRI"])
    assert result.exit_code == 2 and "DICOM has no modality MRI" in result.output


def test_plan_counts_every_question(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["explainers"] = ["gradcam", {"name": "integrated_gradients", "steps": 5}, {"name": "rise", "samples": 3}]
    content["metrics"] = []
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert f"forward passes {39 * (1 + 5 + 3)}" in " ".join(result.output.split())
    assert f"backward passes {39 * (1 + 5)}" in " ".join(result.output.split())


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
        ("explainers", ["salency"], "explainers.0: there is no 'salency'; the nearest are saliency"),
        ("explainers", [{"name": "rise", "sample": 9}], "rise.sample: there is no such field; allowed are"),
        ("target", "everything", "target: there is no 'everything'; there are predicted, classes"),
        ("cohort.source", "{folder}/", "out lies in the cohort"),
        ("cohort.source", "{folder}/**/*.html", "out lies in the cohort"),
        ("model.weights", "{folder}", "model.weights: there is no file"),
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
    place[last] = value.format(folder=config.parent) if isinstance(value, str) else value
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert "Traceback" not in result.output and "at least 1 item" not in result.output


def test_storage_that_cannot_be_used_is_told_by_plan(
    config: Path, s3_endpoint: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = yaml.safe_load(config.read_text())

    def plan(part: str, url: str) -> Result:
        place = {"url": url, "endpoint_url": s3_endpoint}
        changed = content | {"cohort": content["cohort"] | {"source": place}} if part == "cohort" else {"output": place}
        config.write_text(yaml.safe_dump(content | changed))
        return CliRunner().invoke(main, ["plan", str(config)])

    for part in ("cohort", "output"):
        result = plan(part, "s3://nobody-made-this-bucket/chest/")
        assert result.exit_code == 2
        assert "there is no bucket 'nobody-made-this-bucket': make it, or name another" in result.output
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    PatientS3.clear_instance_cache()
    result = plan("cohort", "s3://another-bucket/chest/")
    assert result.exit_code == 3
    assert "there are no credentials for S3: set AWS_ACCESS_KEY_ID" in result.output
    PatientS3.clear_instance_cache()


def test_an_output_that_holds_something_else_is_refused(config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/thesis.docx").write_text("precious")
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == 2
    assert "holds files that are of no run" in result.output


def test_status_counts_images_by_flag(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    flags = {"image constant": 1, "map blank": 2}
    summary = Summary(5, 4, 1, 0, 0, 0, 0, 3, 1, 1, 9, 1000, flags, {})
    monkeypatch.setattr("tasks.work.finish.summarise", lambda output: summary)
    result = CliRunner().invoke(main, ["status", str(tmp_path)])
    assert "flagged 3 image constant 1 map blank 2 " in " ".join(result.output.split())


def test_plan_says_how_many_images_are_the_background(config: Path) -> None:
    content = yaml.safe_load(config.read_text())
    content["explainers"] = [{"name": "expected_gradients", "samples": 2}]
    content["cohort"]["background"], content["metrics"] = 5, []
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert "fitted before background, on 5 images of the cohort" in " ".join(result.output.split())
    assert f"forward passes {39 * 3}" in " ".join(result.output.split())


def test_which_file_a_pseudonym_is(tmp_path: Path) -> None:
    from tasks.cohort.pseudonyms import Key
    from tests.tasks.outputs import Cohort, carry_out

    cohort, output = Cohort(tmp_path / "cohort", range(2)), Location(url=str(tmp_path / "out"))
    content = cohort.content(output, cohort={"source": str(cohort.folder / "manifest.csv")}, explainers=["prediction"])
    carry_out(content)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content))
    ids = [Key.make().pseudonym(name) for name in ("id-1", "patient-0")]
    result = CliRunner().invoke(main, ["which", str(tmp_path / "run.yaml"), *ids])
    image, *of_subject = result.output.splitlines()
    assert result.exit_code == 0 and image == f"{ids[0]}  {cohort.folder / '1.npy'}"
    assert of_subject == [f"{ids[1]}  {cohort.folder / name}" for name in ("0.npy", "1.npy")]
    result = CliRunner().invoke(main, ["which", str(tmp_path / "run.yaml"), "0" * 16])
    assert result.exit_code == 2 and "the cohort has no 0000" in result.output


class _Number(BaseModel):
    number: int


def _raised(error: Exception) -> Callable[..., NoReturn]:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise error

    return fail


@pytest.mark.parametrize(
    ("name", "defect"),
    [
        ("TypeError", lambda *_, **__: len(3)),  # type: ignore[arg-type]
        ("ValueError", lambda *_, **__: int("three")),
        ("KeyError", lambda *_, **__: dict[str, int]()["three"]),
        ("ValidationError", lambda *_, **__: _Number(number="three")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
@pytest.mark.parametrize(
    ("command", "within"),
    [
        (["plan", "{config}"], "tasks.prepare.prepare.survey"),
        (["status", "{folder}"], "tasks.work.finish.summarise"),
        (["verify", "{folder}"], "tasks.upkeep.verify.verify"),
        (["withdraw", "{folder}", "--subject", "a"], "tasks.upkeep.withdraw.withdraw"),
        (["evaluate", "{folder}"], "tasks.plan.plan.Plan.read"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_defect_keeps_its_traceback_and_exits_with_4(
    command: list[str],
    within: str,
    name: str,
    defect: Callable[..., object],
    config: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(within, defect)
    result = CliRunner().invoke(main, [part.format(config=config, folder=tmp_path) for part in command])
    assert result.exit_code == 4, result.output
    assert "Traceback (most recent call last)" in result.stderr and "in <lambda>" in result.stderr
    assert re.search(rf"^(\w+\.)*{name}: ", result.stderr, re.MULTILINE)
    assert "This is a fault of cohortlens itself" in result.stderr


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigurationError("mend it"), 2),
        (Occupied("mend it"), 2),
        (FileNotFoundError("mend it"), 2),
        (OSError("mend it"), 3),
        (PermissionError("mend it"), 3),
        (CredentialsRefused("mend it"), 3),
        (TooManyFailures("mend it"), 3),
        (Incomplete("mend it"), 3),
        (Stopped("mend it"), 3),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_user_is_told_of_all_else_without_a_traceback(
    error: Exception, code: int, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.prepare.prepare.survey", _raised(error))
    result = CliRunner().invoke(main, ["plan", str(config)])
    assert result.exit_code == code
    assert "Error: mend it" in result.stderr
    assert "Traceback" not in result.stderr and "a fault of cohortlens" not in result.stderr


def test_the_module_of_the_command_line_can_be_run() -> None:
    run = subprocess.run([sys.executable, "-m", "flows.cli", "--help"], capture_output=True, text=True, check=True)
    assert "Usage: " in run.stdout and "Explain every image of a medical imaging cohort." in run.stdout
    assert "4 a fault of cohortlens itself" in " ".join(run.stdout.split())
    assert run.stderr == ""


@pytest.mark.parametrize("place", [["ftp://host/out"], ["out", "--other", "ftp://host/out"]])
def test_an_address_that_is_none_is_named(place: list[str]) -> None:
    result = CliRunner().invoke(main, ["evaluate", *place])
    assert result.exit_code == 2
    assert f"{'--other' if len(place) > 1 else 'OUTPUT'}: " in result.stderr
    assert "'ftp://host/out' is neither a local path nor an s3:// URL" in result.stderr


def test_a_learning_rate_below_zero_is_a_usage_error() -> None:
    result = CliRunner().invoke(main, ["train", "--learning-rate", "-1"])
    assert result.exit_code == 2 and "--learning-rate" in result.stderr


@pytest.mark.parametrize("is_done", [True, False])
def test_a_run_that_is_done_needs_no_prefect_server_to_know_it(
    is_done: bool, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import flows.explain
    import flows.run

    def explain(config: RunConfig, **_: bool) -> Summary:
        if is_done:
            flows.run.done[config.output.url] = Summary(5, 5, 0, 0, 0, 0, 0, 0, 1, 1, 9, 1000, {}, {})
        raise httpx.ConnectError("refused")

    monkeypatch.setenv("PREFECT_API_URL", f"http://127.0.0.1:{free_ports(1)[0]}/api")
    monkeypatch.setattr(flows.explain, "explain_cohort", explain)
    monkeypatch.setattr(flows.run, "done", {})
    result = CliRunner().invoke(main, ["run", str(config)])
    assert result.exit_code == (0 if is_done else 3), result.output
    assert ("the run is done" if is_done else "start it, and run again to go on") in result.output


EVIL = "<script>alert(1)</script>\x1b]0;owned\x07\x1b[2J\x9b31m\r\u202e"


def test_nothing_from_a_cohort_is_obeyed_by_a_terminal(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.ones((112, 96)))
    (tmp_path / "b.npy").write_bytes(b"no image")
    rows = [{"id": f"{name}{EVIL}", "uri": f"{name}.npy", "label": EVIL} for name in "ab"]
    pd.DataFrame(rows).to_parquet(tmp_path / "manifest.parquet")
    content = demo_content(str(tmp_path / "manifest.parquet"), str(tmp_path / "out"), spatial_dims=2)
    (tmp_path / "run.yaml").write_text(yaml.safe_dump(content | {"metrics": ["gini"]}))
    result = CliRunner().invoke(main, ["plan", str(tmp_path / "run.yaml")])
    assert result.exit_code == 0, result.output
    assert "of them 1 quarantined" in result.output
    assert "b<script>" in result.output and r"\x1b]0;owned\x07" in result.output
    assert not [c for c in result.output if not (c.isprintable() or c == "\n")]
    assert plain(EVIL).isprintable() and plain("plain ü é 漢") == "plain ü é 漢"


def test_a_table_of_damage_holds_no_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_damage([Damage(EVIL, EVIL, EVIL)])
    shown = capsys.readouterr().out
    assert "<script>" in shown and not [c for c in shown if not (c.isprintable() or c == "\n")]


@pytest.mark.parametrize("verb", ["status", "verify"])
def test_a_place_without_a_run_is_a_usage_error(verb: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, [verb, str(tmp_path)])
    assert result.exit_code == 2
    assert "there is no run at" in result.output


@pytest.mark.parametrize("kept", [0, 10, 1000])
def test_a_damaged_manifest_is_a_usage_error_and_can_be_overwritten(kept: int, config: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/manifest.parquet").write_bytes((b"PAR1" + bytes(996))[:kept])
    for command in (["status", str(tmp_path / "out")], ["plan", str(config)]):
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 2 and "damaged" in result.stderr
    assert CliRunner().invoke(main, ["plan", str(config), "--overwrite"]).exit_code == 0


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    """Addresses that a browser was asked to open."""
    addresses: list[str] = []
    monkeypatch.setattr("webbrowser.open", lambda address: addresses.append(address) or True)
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "scratch"))
    return addresses


def test_a_look_at_the_first_images_leaves_the_output_alone(config: Path, tmp_path: Path, opened: list[str]) -> None:
    result = CliRunner().invoke(main, ["run", str(config), "--first", "5"])
    assert result.exit_code == 0, result.output
    (folder,) = (tmp_path / "scratch").iterdir()
    assert folder.stat().st_mode & 0o777 == 0o700  # it holds images of patients
    report = folder / "report" / "index.html"
    assert opened == [report.as_uri()] and "Can the maps be trusted?" in report.read_text()
    said = " ".join(result.output.split())
    assert f"A look at 5 images. Nothing was written to {tmp_path}/out; delete {folder} afterwards." in said
    assert "images 5 explained 5" in said
    assert "hit_rate" in (folder / "report" / "evidence.csv").read_text()
    assert not (tmp_path / "out").exists()


def test_a_look_ends_as_a_run_does(config: Path, tmp_path: Path, opened: list[str]) -> None:
    content = yaml.safe_load(config.read_text())
    content["cohort"]["preprocessing"] = [{"_target_": "monai.transforms.Resize", "spatial_size": [9, 9]}]
    config.write_text(yaml.safe_dump(content))
    result = CliRunner().invoke(main, ["run", str(config), "--first", "5"])
    assert result.exit_code == 2 and "none of 3 images that were tried can be explained" in result.output
    assert [*(tmp_path / "scratch").iterdir()] == [] and opened == []
    result = CliRunner().invoke(main, ["run", str(config), "--first", "5", "--extend"])
    assert result.exit_code == 2 and "--first leaves the output as it is" in result.output
