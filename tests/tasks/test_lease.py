"""One run at a time, also of two processes and on S3."""

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tasks.storage import lease as lease_module
from tasks.storage.lease import Ended, Occupied, guard, lease
from tasks.storage.location import Location

HOLD = """
import sys, time
from tasks.storage.lease import Occupied, lease
from tasks.storage.location import Location
try:
    with lease(Location(url=sys.argv[1]), sys.argv[2]):
        print("has it", flush=True)
        time.sleep(float(sys.argv[3]))
except Occupied as error:
    print("refused", flush=True)
"""


@pytest.fixture(params=["local", "s3"])
def output(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(url=str(tmp_path)) if request.param == "local" else request.getfixturevalue("bucket")


def hold(output: Location, who: str, seconds: float) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", HOLD, output.url, who, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_a_second_run_is_refused_and_a_later_one_is_not(output: Location) -> None:
    with lease(output, "first"):
        with pytest.raises(Occupied, match="run first is at work"), lease(output, "second"):
            pass
        assert len(output.names()) == 1
    with lease(output, "third") as ours:
        assert ours()
    assert output.names() == []


def test_of_two_processes_one_has_it_and_a_killed_one_loses_it(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path))
    first, second = hold(output, "a", 60), hold(output, "b", 60)
    assert first.stdout and second.stdout
    said = {first.stdout.readline().strip(), second.stdout.readline().strip()}
    assert said == {"has it", "refused"}
    first.kill()
    second.kill()
    first.wait(), second.wait()
    assert len(output.names()) == 1
    with lease(output, "third"):
        assert len(output.names()) == 1


def test_a_lease_that_is_not_renewed_is_taken_over_and_its_run_notices(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.2)
    with lease(output, "first") as ours:
        (name,) = output.names()
        content = json.loads((output / name).read())
        monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.0)
        with lease(output, "second") as theirs:
            deadline = time.monotonic() + 10
            while ours() and time.monotonic() < deadline:
                time.sleep(0.05)
            assert not ours() and theirs()
            assert content["who"] == "first"
        assert output.names() == []


def test_workers_notice_that_their_run_has_ended(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "_LOOK_SECONDS", 0.0)
    with lease(output, "first") as held:
        check = guard(output, held.number)
        check()
        monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.0)
        with lease(output, "second") as taken:
            guard(output, taken.number)()
            with pytest.raises(Ended, match="has ended: what is delivered stays"):
                check()
    with pytest.raises(Ended):
        check()


def test_a_lease_is_renewed(output: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease_module, "RENEW_SECONDS", 0.1)
    with lease(output, "first"):
        (name,) = output.names()
        began = json.loads((output / name).read())["renewed"]
        time.sleep(1)
        assert json.loads((output / name).read())["renewed"] > began


def test_of_many_who_create_a_file_one_succeeds(output: Location) -> None:
    assert [(output / "file").create(text) for text in (b"a", b"b", b"c")] == [True, False, False]
    assert (output / "file").read() == b"a"
    assert output.names() == ["file"]
