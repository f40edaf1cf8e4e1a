"""Disks that are full, and outputs that cannot be written."""

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.location import PARTIAL, Location
from tests.faults.conftest import FEW, SOAK, Measured
from tests.faults.outcome import Expected
from tests.tasks.outputs import carry_out

IMAGES = FEW
SHARES = [share / 20 for share in range(1, 19)] if SOAK else [0.1, 0.5, 0.8]


def mount(folder: Path, options: str) -> bool:
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of its own for the body; yields False where this user may mount none."""
    folder.mkdir()
    mounted = mount(folder, f"size={size}")
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)


@contextmanager
def small_files(size: int) -> Iterator[None]:
    """Let no file of this process grow over a size: a write fails half-way, as on a full disk."""
    before, most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, most))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (before, most))


def test_a_full_disk(
    content: Any, tmp_path: Path, expected: Expected, explained: list[int], measured: Measured
) -> None:
    whole = sum(map(len, expected.objects.values()))
    for share in SHARES:
        folder = tmp_path / f"disk-{share}"
        with small_disk(folder, int(share * whole) + 2**17) as mounted:
            output = Location(url=str(folder / "out"))
            if mounted:
                with pytest.raises(OSError, match="No space left on device"):
                    carry_out(content(output))
                assert mount(folder, "remount,size=1g")
            else:
                largest = max(map(len, expected.objects.values()))
                with small_files(int(share * largest)), pytest.raises(OSError, match="File too large"):
                    carry_out(content(output))
            assert not [name for name in output.sizes() if name.endswith(PARTIAL)]
            carry_out(content(output))
            kind = "disk full" if mounted else "file too large"
            measured(f"{kind} at {share:.0%} of the store", 1, [output], sum(explained) / IMAGES)
            explained.clear()


def test_an_output_that_cannot_be_written(
    content: Any, tmp_path: Path, explained: list[int], measured: Measured
) -> None:
    """Below a file: nobody may make a folder there, not even root, whom permissions do not stop."""
    (tmp_path / "file").touch()
    output = Location(url=str(tmp_path / "file/out"))
    with pytest.raises(OSError, match=r"(Not a directory|File exists).*file"):
        carry_out(content(output))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    (tmp_path / "file").unlink()
    carry_out(content(output))
    measured("output that cannot be written, then can", 1, [output], sum(explained) / IMAGES)
