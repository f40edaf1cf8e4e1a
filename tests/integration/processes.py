"""Processes that tests start and wait for: above all a Dask cluster, started as on machines of its own."""

import base64
import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.seaweedfs import free_ports

_DASK = str(Path(sys.executable).with_name("dask"))
_ROOT = str(Path(__file__).resolve().parents[2])
_PASSWORD = "PREFECT_API_AUTH_STRING"
_OF_THE_TESTS = ("PREFECT", "DASK", "COHORTLENS", "PYTEST")


@dataclass(frozen=True)
class Cluster:
    """A running cluster.

    Attributes
    ----------
    metrics
        Where its first worker serves its metrics, if it has a dashboard.
    log
        The file that holds all that its processes print.
    """

    address: str
    metrics: str
    log: Path
    scheduler: "subprocess.Popen[bytes]"

    @property
    def said(self) -> str:
        return self.log.read_text()


@contextmanager
def dask_cluster(
    folder: Path, environment: Mapping[str, str], workers: int = 1, *, dashboards: bool = False
) -> Iterator[Cluster]:
    """Run a scheduler and some workers for the body.

    They know nothing of the tests but what `environment` says, and the password of the Prefect server.
    """
    file, log = folder / "scheduler.json", folder / "cluster.log"
    ports = free_ports(workers)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(_OF_THE_TESTS)}
    kept |= {_PASSWORD: os.environ[_PASSWORD]} if _PASSWORD in os.environ else {}
    kept |= {"HOME": str(folder), "PYTHONPATH": _ROOT, "OMP_NUM_THREADS": "1", "DASK_TEMPORARY_DIRECTORY": str(folder)}
    with ExitStack() as started, log.open("wb") as sink:

        def start(*arguments: str) -> "subprocess.Popen[bytes]":
            command = [_DASK, *arguments, "--scheduler-file", str(file)]
            process = subprocess.Popen(command, env=kept | dict(environment), cwd=folder, stdout=sink, stderr=sink)
            started.callback(_end, process)
            return process

        def dashboard(port: int) -> list[str]:
            return ["--dashboard-address", f"127.0.0.1:{port}"] if dashboards else ["--no-dashboard"]

        scheduler = start("scheduler", "--host", "127.0.0.1", "--port", "0", *dashboard(0))
        wait(lambda: file.exists() and file.read_text())
        for port in ports:
            start("worker", "--nthreads", "1", "--no-nanny", *dashboard(port))
        address = json.loads(file.read_text())["address"]
        yield Cluster(address, f"http://127.0.0.1:{ports[0]}/metrics", log, scheduler)


def ask(server: str, path: str, query: dict[str, Any]) -> Any:
    """Ask the API of a Prefect server, with its password if it has one."""
    password = base64.b64encode(os.environ.get(_PASSWORD, "").encode()).decode()
    headers = {"Content-Type": "application/json", "Authorization": f"Basic {password}"}
    request = urllib.request.Request(f"{server}/{path}", json.dumps(query).encode(), headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        return json.load(answer)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()


def wait(condition: Callable[[], Any], seconds: float = 240) -> float:
    """Wait for something; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - began
