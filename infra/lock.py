# Tested: tests/infra holds what it wrote against pyproject.toml, and against what torch wants besides.
# Not tested: whether what it pins works, which is for `make test` to say.
"""Pins what the ranges of pyproject.toml give today, each file by its hash. `make lock` runs it, with uv beside it.

All locks are of one resolution, so that they go together; what requirements.lock has, the others do not repeat.
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
LOCKS = {
    "requirements.lock": (("demo", "slurm"), "running needs, the demo and SLURM too"),
    "requirements-dev.lock": (("dev",), "tests and `make up` need besides requirements.lock"),
    "requirements-gpu.lock": (("gpu",), "GPUs need besides requirements.lock"),
}
"""By file, the extras that it has, and what it is for."""

_PLATFORM = "x86_64-manylinux_2_28"
_TORCH_WANTS = ["filelock", "fsspec", "jinja2", "networkx", "setuptools", "sympy", "typing-extensions"]
"""What every build of torch wants; what else one for CUDA wants, it pins itself."""


def main() -> None:
    """Resolve, look for a wheel of every line, and only then write."""
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        (folder / PROJECT.name).write_text(PROJECT.read_text() + _settings())
        _uv(folder, "lock")
        there = ["torch"]
        for file, (extras, _) in LOCKS.items():
            which = [f"--extra={name}" for name in extras] + [f"--no-emit-package={name}" for name in there]
            lock = _uv(folder, "export", "--frozen", "--no-header", "--no-emit-project", *which)
            (folder / file).write_text(lock)
            there += names(lock)
            for python in pythons():
                _look_for_wheels(folder, file, python)
        for file in LOCKS:
            (CHECKOUT / file).write_text(_head(folder, file) + (folder / file).read_text())


def pythons() -> list[str]:
    """The versions that the project says it is for."""
    return re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT.read_text())


def names(lock: str) -> list[str]:
    """The packages that a lock pins."""
    return re.findall(r"^([\w.-]+)==", lock, re.MULTILINE)


def _settings() -> str:
    pins = [line for line in TORCH.read_text().splitlines() if not line.startswith("#")]
    return f"""
[tool.uv]
fork-strategy = "fewest"  # one version for all Pythons, where one will do
constraint-dependencies = {json.dumps(pins)}
dependency-metadata = [{{ name = "torch", requires-dist = {json.dumps(_TORCH_WANTS)} }}]
"""


def _look_for_wheels(folder: Path, file: str, python: str) -> None:
    wanted = ["--no-deps", "--require-hashes", "--only-binary=:all:", f"--python-version={python}"]
    place = [f"--python-platform={_PLATFORM}", f"--target={folder / 'nothing'}"]
    _uv(folder, "pip", "install", "--dry-run", *wanted, *place, f"--requirement={file}")


def _head(folder: Path, file: str) -> str:
    tool, day = " ".join(_uv(folder, "--version").split()[:2]), datetime.datetime.now(datetime.UTC).date()
    return f"""\
# What {LOCKS[file][1]}. Written by `make lock`; torch is in {TORCH.name}.
#   pip install --no-deps --require-hashes --requirement {file}
# Resolved by {tool} on {day} for Python {", ".join(pythons())}. For each of them it was looked up in the
# package index that every line has a wheel, of a hash that is listed, for Linux on {_PLATFORM}.
"""


def _uv(folder: Path, *arguments: str) -> str:
    command = [str(Path(sys.executable).with_name("uv")), *arguments, "--quiet"]
    return subprocess.run(command, cwd=folder, check=True, text=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    main()
