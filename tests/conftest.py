"""Real parts for the tests: an S3 server, a Prefect server, and cohorts that are small but not simple."""

import os
import random
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import pytest

from flows.server import keep_inside, prefect_server
from tasks.demo.cohort import write_cohort
from tasks.storage import Location
from tests.faults.table import pytest_terminal_summary

__all__ = ["pytest_terminal_summary"]

_HOME = Path(__file__).resolve().parent.parent / ".cohortlens" / "tests"
keep_inside(_HOME)
for name in ("AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_SESSION_TOKEN", "PREFECT_API_URL"):
    os.environ.pop(name, None)
os.environ["COHORTLENS_PSEUDONYM_KEY"] = "not-a-secret-either-0815"
os.environ |= {"AWS_ACCESS_KEY_ID": "tester", "AWS_SECRET_ACCESS_KEY": "not-a-secret-4711", "AWS_REGION": "us-east-1"}


@pytest.fixture(scope="session")
def s3_endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The URL of a SeaweedFS server of our own."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    flags = ("-s3.port", "-master.port", "-volume.port", "-filer.port", "-admin.port")
    ports = _free_ports(len(flags))
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-webdav=false", "-master.telemetry=false", "-s3.port.iceberg=0"]
    command += [
        "-s3.port.lance=0",
        "-s3.iam.readOnly=false",
        *(f"{flag}={port}" for flag, port in zip(flags, ports, strict=True)),
    ]
    log = folder / "log.txt"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=folder)
    endpoint = f"http://127.0.0.1:{ports[0]}"
    try:
        _wait_for(endpoint, server, log)
        yield endpoint
    finally:
        server.terminate()
        server.wait(30)
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> Location:
    """An empty bucket of the test's own."""
    name = "test-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    location = Location(url=f"s3://{name}", endpoint_url=s3_endpoint)
    location.filesystem.mkdir(name)
    return location


@pytest.fixture(scope="session")
def prefect() -> Iterator[str]:
    """The API URL of a Prefect server that all flows of the session use."""
    with prefect_server(_HOME) as server_url:
        yield server_url()


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 36 slices with masks, in DICOM, NIfTI and PNG, and three damaged files."""
    return write_cohort(tmp_path_factory.mktemp("slices") / "cohort", images=36, spatial_dims=2)


def _free_ports(count: int) -> list[int]:
    """Ports that are free together with their gRPC twins, which SeaweedFS puts 10000 higher."""
    candidates = iter(random.SystemRandom().sample(range(20_000, 30_000), 100 * count))
    return list(islice((port for port in candidates if _is_free(port) and _is_free(port + 10_000)), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) != 0


def _wait_for(endpoint: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}")
