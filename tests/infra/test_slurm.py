"""SLURM's jobs: what Dask makes of a site's configuration. `make slurm` runs them (on_slurm.py)."""

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import dask
import pytest
import yaml
from dask.utils import parse_timedelta
from dask_jobqueue import SLURMCluster

from flows.config import load
from flows.forked import worker_environment
from tests.infra.files import INFRA


@pytest.fixture(params=["cpu", "gpu"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def script(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The job script of the example cohort at this site."""
    monkeypatch.chdir(tmp_path)
    cluster = load(INFRA / f"slurm/cohort-{kind}.yaml").compute.cluster
    assert cluster and cluster["_target_"] == "dask_jobqueue.SLURMCluster"
    arguments = {name: value for name, value in cluster.items() if name != "_target_"}
    with (
        dask.config.set(
            dask.config.merge(dask.config.config, yaml.safe_load((INFRA / "slurm/jobqueue.yaml").read_text()))
        ),
        SLURMCluster(**arguments, scheduler_options={"dashboard_address": "127.0.0.1:0"}) as started,
    ):
        file = tmp_path / "job.sh"
        file.write_text(started.job_script())
        yield file


def test_its_directives_ask_for_what_the_workers_use(kind: str, script: Path) -> None:
    directives = dict(re.findall(r"^#SBATCH (-\w|--[\w-]+)[ =](.*)$", script.read_text(), re.MULTILINE))
    assert {name: directives.get(name) for name in ("-J", "-p", "-n", "--cpus-per-task", "--mem", "-t", "--gres")} == {
        "-J": "cohortlens",
        "-p": kind,
        "-n": "1",
        "--cpus-per-task": "4",
        "--mem": {"cpu": "16G", "gpu": "32G"}[kind],
        "-t": "04:00:00",
        "--gres": {"cpu": None, "gpu": "gpu:1"}[kind],
    }
    (worker,) = re.findall(r"^.* -m distributed\.cli\.dask_worker .*$", script.read_text(), re.MULTILINE)
    assert " --nthreads 1 " in worker
    assert (" --nworkers 4 " in worker) == (kind == "cpu")
    lifetime, stagger = (
        parse_timedelta(re.findall(rf"--{name} (\S+)", worker)[0]) for name in ("lifetime", "lifetime-stagger")
    )
    assert lifetime + stagger < parse_timedelta("4h")


def test_bash_and_shellcheck_have_nothing_to_say_of_it(script: Path) -> None:
    subprocess.run(["bash", "-n", script], check=True)
    shellcheck = Path(sys.executable).with_name("shellcheck")
    run = subprocess.run([shellcheck, script], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout


def test_its_workers_have_the_environment_of_local_ones(kind: str, script: Path) -> None:
    lines = [line for line in script.read_text().splitlines() if "dask_worker" not in line]
    shown = subprocess.check_output(
        ["bash", "-c", "\n".join([*lines, "env"])], env={"PATH": os.environ["PATH"]}, text=True
    )
    environment = dict(line.split("=", 1) for line in shown.splitlines())
    expected = worker_environment(threads={"cpu": 1, "gpu": 4}[kind])
    assert {name: environment[name] for name in expected} == expected
    assert environment["TMPDIR"] == "/tmp"
