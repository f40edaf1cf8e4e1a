"""The watch over the shards of a run."""

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from distributed import Client, LocalCluster

from flows import shards
from flows.cluster import PlaceConfig
from flows.errors import Stopped
from tasks.storage.lease import Lease
from tasks.storage.location import Location
from tasks.store import commit


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 1000), (0.05, 4)])
def test_commits_are_listed_for_a_tenth_of_the_time_at_most(
    seconds: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, listed = _Clock(), []

    def stamps(*_: Any) -> dict[int, str]:
        listed.append(clock.monotonic())
        clock.sleep(seconds)
        return {}

    monkeypatch.setattr(shards, "time", clock)
    monkeypatch.setattr(commit, "stamps", stamps)
    monkeypatch.setattr(shards, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(shards, "check_cancelled", lambda: None)
    monkeypatch.setattr(shards, "Progress", lambda *_: SimpleNamespace(show=lambda _: None))
    plan: Any = SimpleNamespace(images=1, shards=[SimpleNamespace(images=1)], evaluated=())
    monkeypatch.setattr(shards, "Seen", lambda *_: SimpleNamespace(shards=set(), add=lambda _: None))
    watch = shards._Watch(Location(url=str(tmp_path)), plan, [0], cast(Lease, lambda: True))
    ended = clock.monotonic() + 1
    watch.until(lambda: clock.monotonic() > ended)
    assert 2 < len(listed) <= most + 1  # and once before
    assert listed[-1] > ended, "what was written last has to be seen"


class _Clock:
    """A clock that goes on when somebody waits, and takes no time."""

    def __init__(self) -> None:
        self._now = 0.0

    def monotonic(self) -> float:
        return self._now

    def sleep(self, seconds: float) -> None:
        self._now += seconds


class _Waits:
    """A watch that only waits."""

    def until(self, done: Callable[[], bool]) -> None:
        while not done():
            time.sleep(0.05)


def test_a_run_whose_workers_are_gone_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_ALONE_SECONDS", 0.5)
    with LocalCluster(n_workers=1, processes=False, dashboard_address=None) as cluster, Client(cluster) as client:
        future = SimpleNamespace(wrapped_future=client.submit(time.sleep, 2), result=lambda: None)
        cluster.sync(cluster.workers[0].close)
        with pytest.raises(Stopped, match="none has begun"):
            shards.results_of([future], _Waits())
        assert future.wrapped_future.cancelled()


def test_a_run_waits_for_workers_of_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "_ALONE_SECONDS", -1.0)
    present = shards._Presence(cluster=None)
    present.check()


class _Ends:
    """A task runner whose workers do not end in time."""

    def __enter__(self) -> str:
        return "runner"

    def __exit__(self, *_: object) -> None:
        raise TimeoutError


def test_workers_that_are_done_but_do_not_end_stop_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "task_runner", lambda *_: _Ends())
    with shards.workers(Location(url=str(tmp_path)), PlaceConfig()) as runner:
        assert runner == "runner"
    with pytest.raises(TimeoutError), shards.workers(Location(url=str(tmp_path)), PlaceConfig()):
        raise ValueError("workers were not done")
