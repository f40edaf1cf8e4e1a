"""One run at a time, also of two processes and on S3."""

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.storage import lease as lease_module
from tasks.storage.lease import Ended, Holder, Occupied, guard, lease
from tasks.storage.location import Location
from tests.integration.processes import wait

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
            wait(lambda: not ours())
            assert theirs()
            assert content["who"] == "first"
        assert output.names() == []


def test_a_lease_that_is_written_once_more_after_it_was_lost_does_not_stay(
    output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    with lease(output, "first"):
        (name,) = output.names()
        content = (output / name).read()
        monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.0)
        with lease(output, "second"):
            (output / name).write(content)  # the first had stood still between its look and its write
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
        wait(lambda: json.loads((output / name).read())["renewed"] > began)


def test_of_many_who_create_a_file_one_succeeds(output: Location) -> None:
    assert [(output / "file").create(text) for text in (b"a", b"b", b"c")] == [True, False, False]
    assert (output / "file").read() == b"a"
    assert output.names() == ["file"]


@pytest.fixture
def left(output: Location) -> Callable[..., Location]:
    """Leave a lease of another machine, or with other content, renewed so many seconds ago as the storage has it."""

    def leave(content: bytes | None = None, ago: float = 0, **changes: Any) -> Location:
        file = output / "lease-000004.json"
        holder = {"who": "first", "host": "other", "machine": "another start", "process": 1, "begun": 1, "renewed": 0.0}
        file.write(json.dumps(holder | changes).encode() if content is None else content)
        if ago:
            if not output.is_local:
                pytest.skip("S3's own stamps cannot be set")
            then = time.time() - ago
            os.utime(file.path, (then, then))
        return file

    return leave


@pytest.mark.parametrize("behind", [0, 125, 86_400, -86_400])
def test_clocks_of_hosts_do_not_matter(left: Any, output: Location, behind: float) -> None:
    left(renewed=time.time() - behind)
    said = r"run first is at work at .*, on host other, process 1, heard of [0-9]{1,2} s ago"
    with pytest.raises(Occupied, match=said), lease(output, "second"):
        pass
    assert output.names() == ["lease-000004.json"]


def test_a_dead_one_of_a_host_with_a_fast_clock_is_taken(
    left: Any, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease_module, "_WATCH_SECONDS", 0)
    left(renewed=time.time() + 2 * 86_400, ago=130)
    with lease(output, "second") as taken:
        assert taken.number == 5


def test_one_that_seems_old_but_is_renewed_is_not_taken(
    left: Any, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The storage may stamp files by the clocks of its clients."""
    left(ago=1000)
    monkeypatch.setattr(time, "sleep", lambda _: left(renewed=1.0, ago=1000))
    with pytest.raises(Occupied, match="heard of just now"), lease(output, "second"):
        pass


def gone() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    return process.pid


def here(**changes: Any) -> dict[str, Any]:
    return Holder.ours("first").model_dump() | changes


@pytest.mark.parametrize(
    "holder",
    [
        lambda: here(process=gone()),
        lambda: here(process=1, begun=Holder.ours("").begun),
        lambda: here(begun=1),
    ],
    ids=["gone", "init", "us"],
)
def test_one_that_ended_here_is_taken_at_once(
    left: Any, output: Location, holder: Callable[[], dict[str, Any]]
) -> None:
    left(**holder())
    with lease(output, "second") as taken:
        assert taken.number == 5


def test_a_zombie_has_ended(left: Any, output: Location) -> None:
    process = subprocess.Popen(["sleep", "60"])
    left(**here(process=process.pid, begun=lease_module._begun(process.pid)))
    with pytest.raises(Occupied), lease(output, "second"):
        pass
    process.kill()
    while lease_module._begun(process.pid) != -1:
        time.sleep(0.01)
    with lease(output, "second"):
        pass
    process.wait()


@pytest.mark.parametrize("machine", ["", "a clone of the same host name"])
def test_a_clone_of_this_host_is_another(left: Any, output: Location, machine: str) -> None:
    left(**here(machine=machine, process=gone()))
    with pytest.raises(Occupied, match="run first is at work"), lease(output, "second"):
        pass


JUNK = (
    b"", b"[1]", b"null", b"{}", b'{"who": "x"}', b"{", b"\xff\xfe", b"[" * 100_000, b"9" * 5000,
    *(json.dumps({"who": "x", "host": "o", "process": 1, "renewed": 0} | bad).encode() for bad in (
        {"renewed": "abc"}, {"renewed": math.nan}, {"renewed": math.inf}, {"process": -1}, {"process": 0},
        {"process": 2**70}, {"process": True}, {"process": "1; rm"}, {"who": None}, {"begun": 1.5},
    )),
)  # fmt: skip


@pytest.mark.parametrize("content", JUNK, ids=range(len(JUNK)))
def test_junk_is_refused_while_it_is_fresh_and_then_taken(
    content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = Location(url=str(tmp_path))
    file = tmp_path / "lease-000004.json"
    file.write_bytes(content)
    with pytest.raises(Occupied, match=r"000004\.json says .* and is damaged"), lease(output, "second"):
        pass
    monkeypatch.setattr(lease_module, "STALE_SECONDS", 0.0)
    with lease(output, "second") as taken:
        assert taken.number == 5
    assert output.names() == []
