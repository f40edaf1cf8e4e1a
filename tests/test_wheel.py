"""The wheel: it holds all files of the packages, and runs in any folder, with nothing of a checkout around."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[1]
PACKAGES = ("cohortlens", "flows", "models", "tasks")


def pip(*arguments: str | Path) -> None:
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", arguments[0], "--no-index"]
    subprocess.run([*command, "--no-deps", *arguments[1:]], check=True)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what is built, since setuptools leaves folders beside it."""
    folder = tmp_path_factory.mktemp("source")
    for name in (*PACKAGES, "viewer"):
        shutil.copytree(CHECKOUT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "node_modules"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, folder)
    return folder


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    pip("wheel", "--no-build-isolation", "--wheel-dir", folder, source)
    (built,) = folder.iterdir()
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("installed")
    pip("install", "--no-compile", "--target", folder, wheel)
    return folder


def test_it_holds_every_file_of_the_packages_and_nothing_else(source: Path, wheel: Path) -> None:
    expected = {str(file.relative_to(source)) for name in PACKAGES for file in (source / name).rglob("*.*")}
    held = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert held == expected
    kinds = {".py", ".typed", ".yaml", ".j2", ".js", ".html", ".css", ".json", ".safetensors"}
    assert {Path(name).suffix for name in held} == kinds


def test_the_demo_finds_its_configurations_and_weights(installed: Path, tmp_path: Path) -> None:
    code = """
from flows.config import RunConfig
from flows.demo import demo_content
for kind in ({"spatial_dims": 2}, {"spatial_dims": 3}, {"spatial_dims": 2, "marker": True}):
    print(RunConfig.model_validate(demo_content("manifest.csv", "out", **kind)).model.weights.path)
"""
    found = [Path(line) for line in run(installed, tmp_path, sys.executable, "-c", code).splitlines()]
    assert [path.stem for path in found] == [f"attention_gated_{name}" for name in ("2d", "3d", "2d_marker")]
    assert all(path.is_relative_to(installed) and path.is_file() for path in found)


def test_its_command_and_its_module_show_help(installed: Path, tmp_path: Path) -> None:
    for program in ([installed / "bin/cohortlens"], [sys.executable, "-m", "flows.cli"]):
        assert "Example: cohortlens demo" in run(installed, tmp_path, *program, "--help")


def run(installed: Path, folder: Path, *command: str | Path) -> str:
    """Run a command in `folder`, where the wheel is installed."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    return subprocess.run(command, cwd=folder, env=environment, check=True, text=True, stdout=subprocess.PIPE).stdout
