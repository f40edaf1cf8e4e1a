"""Behaviour that all commands share, and their answers to programs."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from flows import logs
from flows.cli import main, runs
from flows.demo import demo_content
from models.errors import ConfigurationError
from tests.tasks.outputs import carry_out


@pytest.fixture(scope="module")
def content(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    content = demo_content(str(slices), str(tmp_path_factory.mktemp("run") / "out"), spatial_dims=2)
    return {**content, "explainers": ["saliency"], "metrics": [], "uncertainty": [], "results": []}


@pytest.fixture(scope="module")
def output(content: dict[str, object]) -> Path:
    carry_out(content)
    return Path(str(content["output"]))


@pytest.fixture
def config(content: dict[str, object], tmp_path: Path) -> str:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump({**content, "output": str(tmp_path / "out")}))
    return str(path)


@pytest.fixture(autouse=True)
def usual_logs(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Log afterwards as before, whatever a command was told."""
    monkeypatch.setenv("PREFECT_LOGGING_HANDLERS_CONSOLE_LEVEL", "INFO")
    yield
    for name in logs.LOGGERS:
        logging.getLogger(name).setLevel(logging.NOTSET)


def test_plan_status_and_verify_as_json(config: str, output: Path) -> None:
    plan, status, verify = (
        json.loads(CliRunner().invoke(main, [*command, "--json"]).stdout)
        for command in (["plan", config], ["status", str(output)], ["verify", str(output)])
    )
    assert plan["images"] == 39 and plan["cost"]["forward_passes"] == 39 and plan["targets"] == ["lesion"]
    assert status["explained"] == 36 and status["quarantined"] == 3
    assert verify == {"found": [], "left": []}


def test_damage_as_json_exits_with_1(output: Path) -> None:
    broken = next(path for path in (output / "explanations.zarr/logit/c").rglob("*") if path.is_file())
    kept = broken.read_bytes()
    try:
        broken.write_bytes(b"?")
        result = CliRunner().invoke(main, ["verify", str(output), "--json"])
    finally:
        broken.write_bytes(kept)
    assert result.exit_code == 1
    (damage,) = json.loads(result.stdout)["left"]
    assert "logit" in damage["where"]


def test_the_schema_takes_what_a_run_takes_and_nothing_else(config: str) -> None:
    schema = json.loads(CliRunner().invoke(main, ["schema"]).stdout)
    content = yaml.safe_load(Path(config).read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(content, schema)
    for wrong in ({"chort": 1}, {"explainers": ["salency"]}, {"batch_size": "many"}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(content | wrong, schema)


def test_ctrl_c_has_an_exit_code_of_its_own(config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(runs, "load_config", interrupted)
    result = CliRunner().invoke(main, ["plan", config])
    assert result.exit_code == 130
    assert "run again to go on" in result.stderr and "Traceback" not in result.output


@pytest.mark.parametrize("verb", [["status"], ["verify"], ["status", "--json"]])
def test_a_reader_that_leaves_is_no_error(output: Path, verb: list[str]) -> None:
    command = [sys.executable, "-u", "-m", "cohortlens", verb[0], str(output), *verb[1:]]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout and process.stderr
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 0
    assert "Traceback" not in said and "Broken" not in said


def test_how_much_is_said(output: Path, config: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path) -> None:
        raise ConfigurationError("model.classes: wrong")

    def said(*options: str) -> str:
        command = [sys.executable, "-m", "cohortlens", "verify", str(output), *options]
        return subprocess.run(command, capture_output=True, text=True, check=True).stderr

    assert "shards verified" in said()
    assert said("--quiet") == ""
    monkeypatch.setattr(runs, "load_config", refuse)
    assert "Traceback" not in CliRunner().invoke(main, ["plan", config]).stderr
    assert "Traceback" in CliRunner().invoke(main, ["plan", config, "-v"]).stderr


@pytest.mark.parametrize("option", [[], ["-v"]])
def test_a_name_with_escapes_reaches_no_terminal_raw(option: list[str], tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["status", *option, f"{tmp_path}/\x1b]0;title\x07"], color=True)
    assert result.exit_code == 2
    assert "\x1b" not in result.output and "\\x1b]0;title\\x07" in result.output


def in_a_shell(told: str) -> "subprocess.CompletedProcess[str]":
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.run(["sh", "-c", told], env=environment, check=False, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_a_command_ends_alike_if_its_standard_streams_are_closed(closed: str, tmp_path: Path) -> None:
    assert in_a_shell(f"{sys.executable} -m flows.cli status {tmp_path} {closed}").returncode == 2


_OPENS = """
import os, sys
from flows.cli.command import _open_closed_streams

_open_closed_streams()
print(os.open(sys.argv[0], os.O_RDONLY) > 2, os.get_inheritable(0))
"""


def test_no_file_gets_the_number_of_a_standard_stream_that_is_closed(tmp_path: Path) -> None:
    """A process that is forked from the command would keep it open, and with it a lock that is held by it."""
    script = tmp_path / "opens.py"
    script.write_text(_OPENS)
    assert in_a_shell(f"{sys.executable} {script} <&-").stdout.split() == ["True", "True"]
