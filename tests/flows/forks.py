"""Processes of their own that find out about the one that workers are forked from; the module imports little itself."""

import gc
import json
import logging
import multiprocessing
import os
import select
import signal
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

from flows import forked, logs

SAID_BEFORE = "once "


def begin(output: str) -> None:
    """Start the process, and print what is seen of it and of workers that are forked from it."""
    logs.set_up()
    logs.set_level(logging.WARNING)
    before = blocked_in(os.getpid())
    forked.begin()
    served: Any = forkserver._forkserver  # type: ignore[attr-defined]
    found = {
        "interrupts blocked": signal.SIGINT in blocked_in(served._forkserver_pid),
        "signals as before": blocked_in(os.getpid()) == before,
        "worker": asked_of_a_worker(has),
        "logs": asked_of_a_worker(loggers),
        "imported": asked_of_a_worker(deliver, output),
    }
    print(json.dumps(found))


def begin_here() -> None:
    """Fork the process, and print what was there before, and what is seen of it and of workers."""
    logs.set_up()
    logs.set_level(logging.WARNING)
    end, begin = os.pipe()
    forks, fork = [], os.fork

    def seen() -> int:
        forks.append([*has()[2:], *other_threads()])
        return fork()

    os.fork = seen
    sys.stdout.write(SAID_BEFORE)
    forked.begin_here()
    os.close(begin)
    found = {
        "before": forks,
        "closed": select.select([end], [], [], 60)[0] == [end],
        "logs": asked_of_a_worker(loggers),
    }
    print(json.dumps(found))


def asked_of_a_worker(question: Any, *arguments: Any) -> Any:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(question, *arguments).result()


def has() -> tuple[list[str], int, int, int]:
    """Count threads of Python and of the system, file systems and event loops of this process."""
    import asyncio

    from fsspec import AbstractFileSystem

    tasks = len(os.listdir("/proc/self/task"))
    there = gc.get_objects()
    systems = sum(isinstance(one, AbstractFileSystem) for one in there)
    loops = sum(isinstance(one, asyncio.AbstractEventLoop) for one in there)
    return [thread.name for thread in threading.enumerate()], tasks, systems, loops


def other_threads() -> list[str]:
    """Names of the system's threads of this process beside the first."""
    return [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in sorted(os.listdir("/proc/self/task"))][
        1:
    ]


def loggers() -> list[tuple[str, int, list[str]]]:
    """Names, levels and handlers of the loggers of this process."""
    of = {name: logging.getLogger(name) for name in (None, *logs.LOGGERS)}
    return [(str(name), one.level, [type(handler).__name__ for handler in one.handlers]) for name, one in of.items()]


def deliver(output: str) -> list[str]:
    """Name the modules that this process imports while it delivers its first shard."""
    from tasks import run
    from tasks.storage.location import Location

    before = {*sys.modules}
    run.deliver(Location(url=output), [0], run.ENGINES)
    return sorted({*sys.modules} - before)


def blocked_in(process: int) -> set[int]:
    """Numbers of the signals that a process blocks."""
    (mask,) = [line.split()[1] for line in Path(f"/proc/{process}/status").read_text().splitlines() if "SigBlk" in line]
    return {bit + 1 for bit in range(64) if int(mask, 16) >> bit & 1}
