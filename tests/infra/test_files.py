"""All files of infra/: linted, without secrets, and each says how far it was tested."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from yamllint import linter
from yamllint.config import YamlLintConfig

from tests.infra.files import CHECKOUT, INFRA

_FILES = sorted(
    path
    for path in INFRA.rglob("*")
    if path.is_file() and INFRA / "local" not in path.parents and path.name != "settings.env"
    if path.suffix not in (".json", ".pyc")
)
_HEAD_LINES = 8
_YAML = """
extends: default
rules: {line-length: {max: 120}, document-start: disable, braces: {max-spaces-inside: 1}}
"""


def _name(path: Path) -> str:
    return str(path.relative_to(CHECKOUT))


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_every_file_says_how_far_it_was_tested(path: Path) -> None:
    head = path.read_text().splitlines()[:_HEAD_LINES]
    comment = [line for line in head if line.startswith("#")]
    assert any("Tested: " in line for line in comment), f"{path} does not say so"
    assert any("Not tested: " in line for line in comment), f"{path} does not say what was not tested"


@pytest.mark.parametrize("path", [path for path in _FILES if path.suffix == ".yaml"], ids=_name)
def test_yaml_is_well_formed(path: Path) -> None:
    problems = [
        problem for problem in linter.run(path.read_text(), YamlLintConfig(_YAML)) if "comment" not in problem.rule
    ]
    assert problems == []


@pytest.mark.parametrize("path", _FILES, ids=_name)
def test_no_file_holds_a_secret(path: Path) -> None:
    """Whatever is called a password, key or token names where it is found, by a variable, a secret or a path."""
    for line in re.sub(r"\$\{\w+:\?\}", "$variable", path.read_text()).splitlines():
        found = re.search(r"(?i)(password|secret|token|api_?key|auth_?string)\w*['\"]?\s*[:=]\s*(\S.*)", line)
        if found and not line.lstrip().startswith("#"):
            assert re.match(r"\$variable|prefect-auth\b|false|\{name: ", found[2]), line
    assert not re.search(r"(?<![A-Z0-9])(AKIA|ASIA)[A-Z0-9]{16}|-----BEGIN", path.read_text())


def test_the_dockerfile_has_no_findings() -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    run = subprocess.run(
        [hadolint, "--failure-threshold", "style", INFRA / "Dockerfile"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.skipif(not (shutil.which("tofu") or shutil.which("terraform")), reason="neither OpenTofu nor Terraform")
def test_opentofus_files_are_formatted() -> None:
    program = shutil.which("tofu") or shutil.which("terraform")
    run = subprocess.run(
        [str(program), "fmt", "-check", "-diff", INFRA / "s3"], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stdout
