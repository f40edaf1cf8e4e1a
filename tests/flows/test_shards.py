"""The watch over the shards of a run."""

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from flows import shards
from flows.cluster import PlaceConfig
from tasks.storage.lease import Lease
from tasks.storage.location import Location
from tasks.store import commit


@pytest.mark.parametrize(("seconds", "most"), [(0.0, 1000), (0.05, 4)])
def test_commits_are_listed_for_a_tenth_of_the_time_at_most(
    seconds: float, most: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = []

    def stamps(*_: Any) -> dict[int, str]:
        listed.append(time.monotonic())
        time.sleep(seconds)
        return {}

    monkeypatch.setattr(commit, "stamps", stamps)
    monkeypatch.setattr(shards, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(shards, "_check_cancelled", lambda: None)
    monkeypatch.setattr(shards, "Progress", lambda *_: SimpleNamespace(show=lambda _: None))
    plan: Any = SimpleNamespace(images=1, shards=[SimpleNamespace(images=1)], evaluated=())
    monkeypatch.setattr(shards, "Seen", lambda *_: SimpleNamespace(shards=set(), add=lambda _: None))
    watch = shards._Watch(Location(url=str(tmp_path)), plan, [0], cast(Lease, lambda: True))
    ended = time.monotonic() + 1
    watch.until(lambda: time.monotonic() > ended)
    assert 2 < len(listed) <= most + 1  # and once before
    assert listed[-1] > ended, "what was written last has to be seen"


class _Ends:
    """A task runner whose workers do not end in time."""

    def __enter__(self) -> str:
        return "runner"

    def __exit__(self, *_: object) -> None:
        raise TimeoutError


def test_workers_that_are_done_but_do_not_end_stop_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards, "task_runner", lambda *_: _Ends())
    with shards._workers(Location(url=str(tmp_path)), PlaceConfig()) as runner:
        assert runner == "runner"
    with pytest.raises(TimeoutError), shards._workers(Location(url=str(tmp_path)), PlaceConfig()):
        raise ValueError("workers were not done")
