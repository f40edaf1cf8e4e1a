"""Real parts for the tests: an S3 server, a Prefect server, and cohorts that are small but not simple."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.server import keep_inside, prefect_server
from tests.faults.table import pytest_terminal_summary
from tests.seaweedfs import seaweedfs

if TYPE_CHECKING:
    from tasks.storage.location import Location

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
    with seaweedfs(folder) as server:
        yield server.endpoint
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def bucket(s3_endpoint: str, request: pytest.FixtureRequest) -> "Location":
    """An empty bucket of the test's own."""
    from tasks.storage.location import Location

    name = "test-" + "".join(c if c.isalnum() else "-" for c in request.node.name.lower())[:50].strip("-")
    location = Location(url=f"s3://{name}", endpoint_url=s3_endpoint)
    location.filesystem.mkdir(name)
    return location


@pytest.fixture(scope="session")
def prefect() -> Iterator[str]:
    """The API URL of a Prefect server that all flows of the session use."""
    from prefect.context import refresh_global_settings_context

    with prefect_server(_HOME) as server_url:
        url = server_url()
        refresh_global_settings_context()  # or flows would start one more server: test modules have imported Prefect
        yield url
    refresh_global_settings_context()


@pytest.fixture(scope="session")
def slices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The manifest of 36 slices with masks, in DICOM, NIfTI and PNG, and three damaged files."""
    from tasks.demo.cohort import write_cohort

    return write_cohort(tmp_path_factory.mktemp("slices") / "cohort", images=36, spatial_dims=2)
