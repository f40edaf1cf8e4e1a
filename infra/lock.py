# Tested: tests/infra holds what it wrote against pyproject.toml, and against what torch wants besides.
# Not tested: whether what it pins works, which is for `make test` to say.
"""Pins what the ranges of pyproject.toml give today, each file by its hash. `make lock` runs it, with uv beside it.

All locks are of one resolution, so that they go together; what requirements.lock has, the others do not repeat, unless
it has that for some Pythons only.
"""

import datetime
import json
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

CHECKOUT = Path(__file__).resolve().parents[1]
PROJECT = CHECKOUT / "pyproject.toml"
TORCH = CHECKOUT / "requirements-torch.txt"
RUNNING = "requirements.lock"
LOCKS = {
    RUNNING: (("demo", "slurm"), "running needs, the demo and SLURM too"),
    "requirements-dev.lock": (("dev",), "tests and `make up` need besides requirements.lock"),
    "requirements-gpu.lock": (("gpu",), "GPUs need besides requirements.lock"),
    "requirements-viewer.lock": (("viewer",), "the viewer is built with"),
}
"""By file, the extras that it has, and what it is for."""

_PLATFORM = "x86_64-manylinux_2_28"
_TORCH_WANTS = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"]
"""The needs of every build of torch; one for CUDA pins what else it needs itself."""


def main() -> None:
    """Resolve, look up what was resolved, and only then write."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / PROJECT.name).write_text(PROJECT.read_text() + _settings())
        (folder / "no-torch.txt").write_text("torch ; python_version < '3'")
        _uv(folder, "lock")
        for file in LOCKS:
            (folder / file).write_text(_export(folder, file))
            for python in pythons():
                _look_up(folder, file, python)
        for file in LOCKS:
            (CHECKOUT / file).write_text(_head(folder, file) + (folder / file).read_text())


def pythons() -> list[str]:
    """The versions that the project says it is for."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT.read_text())


def _settings() -> str:
    pins = [line for line in TORCH.read_text().splitlines() if not line.startswith("#")]
    return f"""
[tool.uv]
fork-strategy = "fewest"  # one version for all Pythons, where one will do
constraint-dependencies = {json.dumps(pins)}
dependency-metadata = [{{ name = "torch", requires-dist = {json.dumps(_TORCH_WANTS)} }}]
"""


def _export(folder: Path, file: str) -> str:
    left_out = ["torch"]
    if file != RUNNING:
        left_out += re.findall(r"^([\w.-]+)==[^;\n]*$", (folder / RUNNING).read_text(), re.MULTILINE)
    which = [*(f"--extra={name}" for name in LOCKS[file][0]), *(f"--no-emit-package={name}" for name in left_out)]
    return _uv(folder, "export", "--frozen", "--no-header", "--no-emit-project", *which)


def _look_up(folder: Path, file: str, python: str) -> None:
    """Do all of an installation but the installing; as hashes are required, a line that is lacking is found, too."""
    wanted = ["--require-hashes", "--only-binary=:all:", "--override=no-torch.txt", f"--target={folder / 'nothing'}"]
    place = [f"--python-version={python}", f"--python-platform={_PLATFORM}"]
    files = [f"--requirement={name}" for name in {RUNNING, file}]
    _uv(folder, "pip", "install", "--dry-run", *wanted, *place, *files)


def _head(folder: Path, file: str) -> str:
    tool, day = " ".join(_uv(folder, "--version").split()[:2]), datetime.datetime.now(datetime.UTC).date()
    return f"""\
# What {LOCKS[file][1]}. Written by `make lock`; torch is in {TORCH.name}.
#   pip install --no-deps --require-hashes --requirement {file}
# Resolved by {tool} on {day} for Python {", ".join(pythons())}. For each of them uv went through the
# installation on {_PLATFORM}: nothing is lacking, and every line has a wheel in the index, of a hash below.
"""


def _uv(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("uv")), *arguments, "--quiet"]
    return subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
