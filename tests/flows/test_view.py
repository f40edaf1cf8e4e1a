"""`cohortlens view` as a process of its own, on a folder and on a bucket."""

import http.client
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import urlsplit

import httpx
import pytest
import xarray as xr
from click.testing import CliRunner

from flows.cli import main
from flows.viewing import serve
from models.errors import ConfigurationError
from tasks.ratings.summary import SUMMARY, fold_in
from tasks.storage.location import Location
from tests.tasks.outputs import Cohort, carry_out
from tests.tasks.readings import rating_of

TOKEN = "0123456789abcdef" * 2 + "_-"
CLIENT = httpx.Client(timeout=60, limits=httpx.Limits(max_keepalive_connections=0))
"""Waits longer than five seconds, where the machine is busy; each request has a connection of its own."""


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A finished output with a name that has to be escaped."""
    folder = tmp_path_factory.mktemp("served")
    location = Location(url=str(folder / "outputs" / "a #1?%41[*]"))
    carry_out(Cohort(folder / "cohort", range(6)).content(location))
    return location


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "flows.cli", "view", *arguments]


@contextmanager
def viewing(*arguments: str, **environment: str) -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    """Run the server for the body; yields the address that it says, and the process."""
    process = subprocess.Popen(
        command("--no-browser", *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
    )
    assert process.stdout is not None
    try:
        yield process.stdout.readline().strip(), process
    finally:
        process.kill()
        process.communicate()


def test_a_folder_is_served_to_who_has_the_address(output: Location) -> None:
    with viewing(output.url) as (address, process):
        assert address.startswith("http://127.0.0.1:") and address.endswith(
            "/a%20%231%3F%2541%5B%2A%5D/viewer/index.html"
        )
        at = address.removesuffix("/viewer/index.html")
        part = CLIENT.get(f"{at}/plan.json", headers={"range": "bytes=-9"})
        assert (part.status_code, part.content) == (206, (output / "plan.json").read()[-9:])
        assert "server" not in part.headers
        head = CLIENT.head(f"{at}/plan.json")
        assert head.headers["content-length"] == str((output / "plan.json").size()) and not head.content
        assert _raw(at, "/report/../manifest.parquet") == _raw(at, "/../../etc/passwd") == 404
        with xr.open_zarr(f"{at}/explanations.zarr", chunks=None) as read:
            assert read.attribution.shape == (6, 1, 2, 16, 16) and read.attribution.notnull().all()
        assert CLIENT.post(f"{at}/ratings", json=rating_of(output, 0, comment="nobody-logs-this")).status_code == 201
        assert CLIENT.post(f"{at}/ratings", json={"comment": "nobody-logs-this"}).status_code == 400
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=120)
        assert process.returncode == 130
        assert "Traceback" not in said and "nobody-logs-this" not in said and at.split("/")[3] not in said


def test_a_bucket_is_served_with_the_credentials_of_the_server(output: Location, bucket: Location) -> None:
    for name in (name for name in output.sizes() if not name.startswith("ratings/")):
        (bucket / "results/nightly" / name).write((output / name).read())
    served = bucket / "results/nightly"
    extra = ["--endpoint-url", str(bucket.endpoint_url), "--host", "0.0.0.0"]
    with viewing(f"{bucket.url}/results", *extra, COHORTLENS_VIEW_TOKEN=TOKEN) as (address, _):
        assert TOKEN not in address
        at = f"http://127.0.0.1:{urlsplit(address).port}/{TOKEN}"
        assert 'href="nightly/viewer/index.html"' in CLIENT.get(f"{at}/", headers={"host": "view.hospital.org"}).text
        part = CLIENT.get(f"{at}/nightly/plan.json", headers={"range": "bytes=2-9"})
        assert (part.status_code, part.content) == (206, (served / "plan.json").read()[2:10])
        assert CLIENT.get(f"{at}/nightly/plan.json", headers={"range": "bytes=99999999-"}).status_code == 416
        assert CLIENT.get(f"{at}/nightly/explanations.zarr/no/c/0").status_code == 404
        assert CLIENT.get(f"{at}/nightly/explanations.zarr").status_code == 404
        etag = CLIENT.head(f"{at}/nightly/plan.json").headers["etag"]
        assert CLIENT.get(f"{at}/nightly/plan.json", headers={"if-none-match": etag}).status_code == 304
        with xr.open_zarr(f"{at}/nightly/explanations.zarr", chunks=None) as read:
            assert read.attribution.notnull().all()
        rating = rating_of(served, 3, comment="Ω")
        assert [CLIENT.post(f"{at}/nightly/ratings", json=rating).status_code for _ in range(2)] == [201, 201]
        assert CLIENT.post(f"{at}/nightly/ratings", json=rating | {"comment": "other"}).status_code == 409
        own = CLIENT.get(f"{at}/nightly/ratings", params={"image_id": rating["image_id"], "rater": "reader-a"}).json()
        assert [one["comment"] for one in own] == ["Ω"]
        assert fold_in(served).ratings == 1 and (served / SUMMARY).exists()


@pytest.mark.parametrize(
    ("host", "token", "said"),
    [
        ("127.0.0.1", None, "is in use"),
        ("0.0.0.0", None, "needs a token: set COHORTLENS_VIEW_TOKEN"),
        ("127.0.0.1", "short", "32 letters"),
        ("127.0.0.1", TOKEN + "/", "32 letters"),
        ("no.such.host.invalid", TOKEN, "cannot be listened on"),
    ],
)
def test_what_cannot_be_served_is_refused(output: Location, host: str, token: str | None, said: str) -> None:
    told: list[str] = []
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(ConfigurationError, match=said):
            serve(output, host, taken.getsockname()[1], token, say=told.append)
    assert told == []


def test_a_place_where_nothing_is_is_refused(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["view", str(tmp_path / "missing")])
    assert (result.exit_code, "there is nothing at" in result.output) == (2, True)


def test_a_browser_is_opened_unless_told_not_to(tmp_path: Path, output: Location) -> None:
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > {tmp_path}/opened\n')
    browser.chmod(0o700)
    process = subprocess.Popen(
        command(output.url), stdout=subprocess.PIPE, text=True, env=os.environ | {"BROWSER": str(browser)}
    )
    assert process.stdout is not None
    try:
        address = process.stdout.readline()
        CLIENT.get(address.strip())
        assert (tmp_path / "opened").read_text() == address
    finally:
        process.kill()
        process.communicate()


def _raw(at: str, path: str) -> int:
    """Ask for a path as it is: clients resolve ``..`` themselves."""
    place = urlsplit(at)
    connection = http.client.HTTPConnection(place.netloc, timeout=60)
    connection.request("GET", f"{place.path}{path}")
    return connection.getresponse().status
