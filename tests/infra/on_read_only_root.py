"""`make infra-check`: a whole run in the image's environment, where nothing but /scratch can be written."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.infra.files import CHECKOUT, image_environment

_SCRIPT = """
set -e
mount --make-rprivate /
mkdir -p /scratch
mount -t tmpfs tmpfs /scratch
mount -o remount,ro,bind /
for other in $(findmnt --list --noheadings --output TARGET | grep -vE '^/(scratch|dev|proc|sys|run)?(/|$)'); do
  mount -o remount,ro,bind "$other"
done
if touch /tmp/written "$1/written" 2>/dev/null; then echo "the root can be written"; exit 9; fi
cd /scratch
env --ignore-environment "${@:3}" "$2" demo --images 24 --output /scratch/out
ls --almost-all /scratch
"""


@pytest.mark.timeout(600)
def test_a_run_writes_nothing_but_scratch() -> None:
    program = Path(sys.executable).with_name("cohortlens")
    environment = image_environment() | {"PATH": f"{program.parent}:/usr/bin:/bin", "PYTHONPATH": str(CHECKOUT)}
    told = [f"{name}={value}" for name, value in environment.items()]
    command = ["unshare", "--mount", "--map-root-user", "bash", "-c", _SCRIPT, "bash", CHECKOUT, program, *told]
    run = subprocess.run(command, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr
    left = set(run.stdout.split("print(ds)")[1].split())
    assert left == {".cohortlens", "dask", "matplotlib", "out", "out-cohort", "prefect"}
