"""The lease: one run at a time works on an output.

A run creates the file of the next number, which only one of several can, and renews it while it works. A lease that
was not renewed for a while is of a run that died, and the next number may be taken. Workers of a run look whether its
number is still the highest: they may outlive it, where the cluster does.
"""

import json
import math
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

from models.errors import ConfigurationError
from tasks.storage.location import Location

NAME = "lease"

RENEW_SECONDS = 15.0
STALE_SECONDS = 120.0
_LOOK_SECONDS = 2.0


class Occupied(ConfigurationError):
    """Another run is at work on the output."""


class Ended(Exception):
    """The run that wanted the work has ended, or has lost its lease."""


@dataclass(frozen=True)
class Lease:
    """A lease that was taken; called, it tells whether it is still ours."""

    number: int
    lost: threading.Event = field(default_factory=threading.Event)

    def __call__(self) -> bool:
        return not self.lost.is_set()


def guard(output: Location, number: int) -> Callable[[], None]:
    """Make what a worker calls often: it raises `Ended` soon after the lease of that number is gone."""
    looked = -math.inf

    def check() -> None:
        nonlocal looked
        if time.monotonic() - looked < _LOOK_SECONDS:
            return
        if max(_numbers(output), default=0) != number:
            raise Ended(f"the run that began this work at {output} has ended: what is delivered stays")
        looked = time.monotonic()

    return check


@contextmanager
def lease(output: Location, who: str) -> Iterator[Lease]:
    """Keep other runs away from an output for the body.

    Raises
    ------
    Occupied
        If another run has it.
    """
    number, there = _current(output)
    if there is not None:
        _check_stale(output, there)
    ours = _file(output, number + 1)
    if not ours.create(_content(who)):
        raise Occupied(f"another run has just begun at {output}: wait for its end, or name another output")
    for before in _numbers(output):
        if before <= number:
            _file(output, before).remove()
    taken, done = Lease(number + 1), threading.Event()
    renewing = threading.Thread(target=_renew, args=(output, ours, taken, who, done), daemon=True)
    renewing.start()
    try:
        yield taken
    finally:
        done.set()
        renewing.join()
        if taken():
            ours.remove()


def _renew(output: Location, ours: Location, taken: Lease, who: str, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        with suppress(OSError):  # storage that is away for a moment is for those who write results to complain of
            if max(_numbers(output), default=0) != taken.number:
                taken.lost.set()
                return
            ours.write(_content(who))


def _current(output: Location) -> tuple[int, dict[str, str | int | float] | None]:
    """The highest number, and what its file says; an unreadable one is as old as can be."""
    numbers = _numbers(output)
    if not numbers:
        return 0, None
    try:
        return max(numbers), json.loads(_file(output, max(numbers)).read())
    except FileNotFoundError:
        return max(numbers), None
    except ValueError:
        return max(numbers), {"who": "unknown", "host": "", "process": 0, "renewed": 0.0}


def _check_stale(output: Location, there: dict[str, str | int | float]) -> None:
    age = time.time() - float(there["renewed"])
    died = there["host"] == socket.gethostname() and not _runs(int(there["process"]))
    if age < STALE_SECONDS and not died:
        raise Occupied(
            f"run {there['who']} is at work at {output}, on host {there['host']}, process {there['process']}, heard of "
            f"{max(age, 0):.0f} s ago: wait for its end, or name another output. If it died, its lease ends "
            f"{STALE_SECONDS:.0f} s after it was heard of last"
        )


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _content(who: str) -> bytes:
    facts = {"who": who, "host": socket.gethostname(), "process": os.getpid(), "renewed": time.time()}
    return json.dumps(facts).encode()


def _numbers(output: Location) -> list[int]:
    return [int(found[1]) for name in output.names() if (found := re.fullmatch(NAME + r"-(\d+)\.json", name))]


def _file(output: Location, number: int) -> Location:
    return output / f"{NAME}-{number:06d}.json"
