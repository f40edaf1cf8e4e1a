"""Programs that no Python package brings: root on Debian installs them; elsewhere their tests are skipped."""

import os
import shutil
import subprocess
from functools import cache

import pytest

_APT = ["apt-get", "-qq", "-o", "DPkg::Lock::Timeout=600"]


@cache
def needed(name: str, package: str = "") -> str:
    """Find a program, or a file by its path, or install the Debian package of it.

    Without root, the test that asks is skipped, and says so.
    """
    package = package or name
    if found := _find(name):
        return found
    if os.geteuid() == 0 and shutil.which("apt-get"):
        quietly = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        subprocess.run([*_APT, "update"], check=False)
        subprocess.run([*_APT, "install", "--no-install-recommends", package], check=False, env=quietly)
    if not (found := _find(name)):
        pytest.skip(f"NOT tested: there is no {name} (`apt-get install {package}`)")
    return found


def _find(name: str) -> str | None:
    return name if os.path.isabs(name) and os.path.exists(name) else shutil.which(name)
