"""The lease: one run at a time works on an output.

A run creates the file of the next number, which only one of several can, and renews it while it works. A lease that
was not renewed for a while is of a run that died, and the next number may be taken. Workers of a run look whether its
number is still the highest: they may outlive it, where the cluster does.

No clock of one host is held against that of another. How old a lease is, is the time between two files as the storage
stamps them: the lease, and one that is written now. Where it seems old, since a file system may stamp files by the
clocks of its clients, it is watched for a while besides: a run that lives renews it.
"""

import math
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from models.errors import ConfigurationError
from tasks.storage.location import PARTIAL, Location

NAME = "lease"

RENEW_SECONDS = 15.0
STALE_SECONDS = 120.0
_LOOK_SECONDS = 2.0
_UNKNOWN = 0
_WATCH_SECONDS = 2 * RENEW_SECONDS + 5


class Holder(BaseModel):
    """The holder of a lease, as its file says.

    Attributes
    ----------
    machine
        Which start of which kernel, and which of its containers: cloned machines may share their host name.
    process, begun
        Its number, and when the kernel started it, in ticks: numbers are given again.
    renewed
        Seconds since 1970 by the holder's clock, for people to read, and so that each renewal changes the file.
    """

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    who: str
    host: str
    machine: str = ""
    process: int = Field(gt=0, lt=2**31)
    begun: int = _UNKNOWN
    renewed: float

    @classmethod
    def ours(cls, who: str) -> "Holder":
        """Describe this process."""
        process = os.getpid()
        return cls(
            who=who,
            host=socket.gethostname(),
            machine=_machine(),
            process=process,
            begun=_begun(process) or _UNKNOWN,
            renewed=time.time(),
        )

    def died(self) -> bool:
        """True if it was a process of this machine, and is no more; False if that cannot be told."""
        if self.machine != _machine():
            return False
        begun = _begun(self.process)
        return begun != self.begun if begun is not None else not _exists(self.process)


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
    number = max(_numbers(output), default=0)
    if number:
        _check_stale(output, _file(output, number))
    ours = _file(output, number + 1)
    if not ours.create(_content(who)):
        raise Occupied(f"another run has just begun at {output}: wait for its end, or name another output")
    _remove_up_to(output, number)
    taken, done = Lease(number + 1), threading.Event()
    renewing = threading.Thread(target=_renew, args=(output, ours, taken, who, done), daemon=True)
    renewing.start()
    try:
        yield taken
    finally:
        done.set()
        renewing.join()
        if taken():
            _remove_up_to(output, taken.number)


def _remove_up_to(output: Location, number: int) -> None:
    """Remove leases of this number and before: a run that stood still may have written its own after it was removed."""
    for before in _numbers(output):
        if before <= number:
            _file(output, before).remove()


def _renew(output: Location, ours: Location, taken: Lease, who: str, done: threading.Event) -> None:
    while not done.wait(RENEW_SECONDS):
        with suppress(OSError):  # storage that is away for a moment is for those who write results to complain of
            if max(_numbers(output), default=0) != taken.number:
                taken.lost.set()
                ours.remove()
                return
            ours.write(_content(who))


def _check_stale(output: Location, file: Location) -> None:
    there = _read(file)
    if there is None:
        return
    holder = _parsed(there)
    if holder and holder.died():
        return
    who = (
        f"run {holder.who} is at work at {output}, on host {holder.host}, process {holder.process}"
        if holder
        else f"{file} says that a run is at work there, and is damaged, so that it does not say which"
    )
    age = _age(output, file)
    if age < STALE_SECONDS:
        raise Occupied(
            f"{who}, heard of {max(age, 0):.0f} s ago: wait for its end, or name another output. If it died, its lease "
            f"ends {STALE_SECONDS:.0f} s after it was heard of last"
        )
    end = time.monotonic() + min(_WATCH_SECONDS, STALE_SECONDS)
    while time.monotonic() < end:
        time.sleep(1)
        now = _read(file)
        if now is None:
            return
        if now != there:
            raise Occupied(f"{who}, heard of just now: wait for its end, or name another output")


def _age(output: Location, file: Location) -> float:
    """Seconds between two stamps of the storage: that of a lease, and that of a file which is written now."""
    now = output / f"{NAME}-now-{uuid.uuid4().hex}{PARTIAL}"
    now.write(b"")
    try:
        times = output.times_of([file.url, now.url])
    finally:
        now.remove()
    if file.url not in times:  # it was given back meanwhile
        return math.inf
    return (times[now.url] - times[file.url]).total_seconds() if now.url in times else 0.0


def _read(file: Location) -> bytes | None:
    try:
        return file.read()
    except FileNotFoundError:
        return None


def _parsed(content: bytes) -> Holder | None:
    try:
        return Holder.model_validate_json(content)
    except ValidationError:
        return None


@cache
def _machine() -> str:
    """Name the start of the kernel and the container that this process is of; elsewhere than on Linux, the machine."""
    try:
        started = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{started} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return f"{socket.gethostname()} {uuid.getnode():x}"


def _begun(process: int) -> int | None:
    """Find out when a process of this machine began, in ticks since the start of its kernel.

    It is -1 of one that ended and is not waited for, and None if the kernel does not say so.
    """
    try:
        state, *others = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None
    return -1 if state in ("Z", "X") else int(others[18])


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _content(who: str) -> bytes:
    return Holder.ours(who).model_dump_json().encode()


def _numbers(output: Location) -> list[int]:
    return [int(found[1]) for name in output.names() if (found := re.fullmatch(NAME + r"-([0-9]+)\.json", name))]


def _file(output: Location, number: int) -> Location:
    return output / f"{NAME}-{number:06d}.json"
