"""Modules that only describe a cohort import none of the libraries that decode images."""

import os
import subprocess
import sys

import pytest

HEAVY = ("pydicom", "nibabel", "PIL")


def imported(module: str) -> list[str]:
    """Name the libraries of `HEAVY` that a fresh process has after it imported a module."""
    code = f"import sys, {module}; print(*(name for name in {HEAVY} if name in sys.modules))"
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    return subprocess.check_output([sys.executable, "-c", code], text=True, timeout=280, env=environment).split()


@pytest.mark.parametrize(
    "module",
    [
        "tasks.cohort.config",
        "tasks.cohort.entry",
        "tasks.cohort.reading",
        "tasks.cohort.selection",
        "tasks.plan.plan",
    ],
)
def test_a_cohort_is_described_without_the_libraries_that_decode(module: str) -> None:
    assert imported(module) == []


def test_the_readers_are_where_these_libraries_are() -> None:
    assert imported("tasks.cohort.readers") == [*HEAVY]
