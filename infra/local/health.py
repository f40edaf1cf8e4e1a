"""A look at whether each process of the topology does what it is there for."""

import json
import os
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Check:
    """Say what is wrong with one program of supervisord.conf, or ""."""

    program: str
    problem: Callable[[], str]


def _postgres() -> str:
    command = [f"{os.environ['POSTGRES_BIN']}/pg_isready", "--host", "127.0.0.1", "--port", os.environ["POSTGRES_PORT"]]
    asked = subprocess.run(command, capture_output=True, text=True, check=False)
    return "" if asked.returncode == 0 else (asked.stdout + asked.stderr).strip()


def _seaweedfs() -> str:
    try:
        _get(os.environ["S3_ENDPOINT_URL"])
    except urllib.error.HTTPError as error:
        return "" if error.code == 403 else str(error)  # it is there, and wants credentials
    except OSError as error:
        return str(error)
    return ""


def _view() -> str:
    return _answers(f"{os.environ['COHORTLENS_VIEW_URL']}/")


def _dask_scheduler() -> str:
    return _answers(f"http://127.0.0.1:{os.environ['DASK_DASHBOARD_PORT']}/health")


def _dask_workers() -> str:
    wanted = int(os.environ["DASK_WORKERS"])
    try:
        there = json.loads(_get(f"http://127.0.0.1:{os.environ['DASK_DASHBOARD_PORT']}/json/counts.json"))["workers"]
    except OSError as error:
        return str(error)
    return "" if there >= wanted else f"{there} of {wanted} are there"


def _prefect_server() -> str:
    return _answers(f"{os.environ['PREFECT_API_URL']}/health")


def _prefect_worker() -> str:
    url = f"{os.environ['PREFECT_API_URL']}/work_pools/{os.environ['WORK_POOL']}/workers/filter"
    try:
        workers: list[Any] = json.loads(_get(url, b"{}"))
    except OSError as error:
        return str(error)
    return "" if any(worker["status"] == "ONLINE" for worker in workers) else "no worker of the pool is online"


def _answers(url: str) -> str:
    try:
        _get(url)
    except OSError as error:
        return str(error)
    return ""


def _get(url: str, data: bytes | None = None) -> bytes:
    request = urllib.request.Request(url, data, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=5) as answer:
        body: bytes = answer.read()
    return body


CHECKS = (
    Check("postgres", _postgres),
    Check("seaweedfs", _seaweedfs),
    Check("view", _view),
    Check("dask-scheduler", _dask_scheduler),
    Check("dask-worker", _dask_workers),
    Check("prefect-server", _prefect_server),
    Check("prefect-worker", _prefect_worker),
)
