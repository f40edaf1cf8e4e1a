"""Workers of this machine are forked from a process that has imported what they need.

A command imports that for itself and for its workers, once, and is then forked into this process. Nothing here imports
what takes long, since a command starts Prefect's server first of all.
"""

import gc
import os
import signal
import sys
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module, reload
from multiprocessing import forkserver, resource_tracker, util
from tempfile import gettempdir
from typing import Any

from flows import logs
from flows.environment import environment

PRELOADED = ("flows.shards", "tasks.work.preloaded")
"""Modules that the process imports. None may start a thread, an event loop or a file system: no fork would have it."""

_KEEP_MEMORY, _TAKE_MEMORY = 2**30, 2**26

_SOCKET_BYTES = len("/pymp-12345678/listener-12345678")


def can_begin() -> bool:
    """True if a socket fits into the temporary folder: its whole name has 107 bytes at most."""
    return len(os.fsencode(gettempdir())) + _SOCKET_BYTES <= 107


def begin() -> None:
    """Start the process, if it is not there; it imports in the background, and then ends as soon as this process does.

    Where it cannot begin, workers import by themselves. It has the environment of a worker with one thread;
    `dask_setup` gives workers the number that they have, and the cluster the environment of their run.
    """
    if not can_begin():
        return
    told = {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONSAFEPATH": "1"}  # no module of the folder it starts in
    resource_tracker.ensure_running()  # it would let Ctrl-C through again
    # malloc and BLAS read theirs when they begin
    with environment(worker_environment(threads=1) | told), _without_interrupts():
        forkserver.set_forkserver_preload([*PRELOADED])
        forkserver.ensure_running()


def begin_here() -> None:
    """Import what workers need, and fork this process into the one that they are forked from.

    Call it in a process that has done nothing yet: a fork would have none of its threads, and half of what they did.
    Elsewhere than on Linux the other process is started, since libraries of macOS do not live through a fork.
    """
    if sys.platform != "linux":
        begin()
        return
    gc.disable()  # what is imported stays: to look for garbage in it takes a fifth of the time
    for name in PRELOADED:
        import_module(name)
    gc.freeze()
    gc.enable()
    resource_tracker.ensure_running()  # it is spawned, too
    spawn = util.spawnv_passfds
    util.spawnv_passfds = _fork
    try:
        begin()
    finally:
        util.spawnv_passfds = spawn


def _fork(path: bytes, args: Sequence[Any], passfds: Sequence[int]) -> int:
    """Fork this process where `multiprocessing` would start another; it then does as that is told by ``-c``."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()  # or workers would write it once more
    process = os.fork()
    if process:
        return process
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        _close_all_but({0, 1, 2, *passfds})
        logs.forget()
        reload(forkserver)  # its lock is held by whoever forks
        exec(args[-1], {})
    except Exception:
        sys.excepthook(*sys.exc_info())
    finally:
        os._exit(0)


def _close_all_but(kept: Collection[int]) -> None:
    """Close files of the process before: the server ends when its pipe is closed everywhere, and so does this one."""
    highest = max(map(int, os.listdir("/dev/fd")))
    for descriptor in {*range(highest + 1)} - {*kept}:
        with suppress(OSError):
            os.close(descriptor)


def worker_environment(threads: int) -> dict[str, str]:
    """Environment of a worker process that computes with `threads` threads.

    Dask's own ``MALLOC_TRIM_THRESHOLD_=65536`` gives memory back to the system after every tensor and makes torch
    1.6 times slower on a CPU; these values let malloc keep it.
    """
    return {
        **dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), str(threads)),
        "MALLOC_TRIM_THRESHOLD_": str(_KEEP_MEMORY),
        "MALLOC_MMAP_THRESHOLD_": str(_KEEP_MEMORY),
        "MALLOC_TOP_PAD_": str(_TAKE_MEMORY),
    }


def dask_setup(worker: Any) -> None:
    """Let a worker do as its environment says, which it did not begin with: Dask calls this when one starts."""
    from tasks.work.preloaded import keep_memory, use_threads

    keep_memory(_KEEP_MEMORY, _TAKE_MEMORY)
    use_threads(int(os.environ["OMP_NUM_THREADS"]))


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """Let Ctrl-C not reach processes that start in the body, nor those below them: whoever started them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
