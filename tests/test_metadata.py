"""The project's metadata is the same in all places that say it."""

import re
import tomllib
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[1]


def test_the_citation_says_what_pyproject_says() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert all(citation[field] == project[field] for field in ("version", "license", "authors"))
    assert set(citation["keywords"]) <= set(project["keywords"])


def test_changes_since_the_last_release_have_a_place() -> None:
    assert "\n## [Unreleased]\n" in (ROOT / "CHANGELOG.md").read_text()


def test_hooks_run_what_make_lint_runs() -> None:
    (recipe,) = re.findall(r"^lint:.*\n((?:\t.*\n)+)", (ROOT / "Makefile").read_text(), re.MULTILINE)
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    commands = [line.strip().removesuffix(" .").replace("$(BIN)", ".venv/bin") for line in recipe.splitlines()]
    hooks = [hook["entry"] for hook in local["hooks"]]
    assert local["repo"] == "local" and hooks == [command.replace(" --check", "") for command in commands]
