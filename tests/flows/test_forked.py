"""The process that workers are forked from: it holds what they need, and nothing that a fork would not have."""

import gc
import logging
import multiprocessing
import os
import subprocess
import sys
import threading
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from flows import cluster, forked, logs, shards
from flows.evaluate import evaluate_cohort
from flows.explain import explain_cohort
from flows.export import export_cohort
from tasks import run
from tasks.storage.location import Location
from tasks.work.engines import Engines
from tests.tasks.outputs import Cohort, prepared

_LOOKS = """
import sys
from tests.flows.test_forked import look
print(*look())
"""


def look() -> tuple[list[str], int, int, int]:
    """Threads of Python and of the system, file systems and event loops of a worker that has just been forked."""
    forked.begin()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(_found).result()


def _found() -> tuple[list[str], int, int, int]:
    import asyncio

    from fsspec import AbstractFileSystem

    tasks = len(os.listdir("/proc/self/task"))
    there = gc.get_objects()
    systems = sum(isinstance(one, AbstractFileSystem) for one in there)
    loops = sum(isinstance(one, asyncio.AbstractEventLoop) for one in there)
    return [thread.name for thread in threading.enumerate()], tasks, systems, loops


def in_a_process_of_its_own(code: str, *arguments: str) -> str:
    """Run code in a process that has begun nothing yet; the pool's own would be kept."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return ran.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="threads of the system are counted in /proc")
def test_no_thread_file_system_or_event_loop_is_there_before_the_fork() -> None:
    assert in_a_process_of_its_own(_LOOKS).split() == ["['MainThread']", "1", "0", "0"]


_FORKS = """
import os
from flows import forked
from tests.flows.test_forked import _found, other_threads

fork = os.fork
os.fork = lambda: print(*_found()[2:], *other_threads(), flush=True) or fork()
forked.begin_here()
"""


def other_threads() -> list[str]:
    """Names of the system's threads of this process beside the first."""
    return [Path(f"/proc/self/task/{task}/comm").read_text().strip() for task in sorted(os.listdir("/proc/self/task"))][
        1:
    ]


@pytest.mark.skipif(sys.platform != "linux", reason="threads of the system are counted in /proc")
def test_a_command_has_no_thread_file_system_or_event_loop_when_it_is_forked(monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenBLAS ends its threads before a fork, and is told to have none; jemalloc sees to its thread, too."""
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "1")
    assert in_a_process_of_its_own(_FORKS).split() == ["0", "0", "jemalloc_bg_thd"]


_CLOSES = """
import os, select
from flows import forked

end, begin = os.pipe()
forked.begin_here()
os.close(begin)
print(select.select([end], [], [], 60)[0] == [end])
"""


def test_the_process_keeps_no_file_of_the_command_open() -> None:
    """Prefect's server ends when its pipe from the command is closed, however the command ended."""
    assert in_a_process_of_its_own(_CLOSES).split() == ["True"]


_SAYS = """
import sys
from flows import forked
from tests.flows.test_forked import how_a_worker_logs

sys.stdout.write("once ")
forked.begin_here()
how_a_worker_logs()
"""


def test_workers_do_not_repeat_what_the_command_said_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    assert in_a_process_of_its_own(_SAYS).split() == ["once"]


_LOGS = """
import logging, sys
from flows import forked, logs
from tests.flows.test_forked import how_a_worker_logs

logs.set_up()
logs.set_level(logging.WARNING)
getattr(forked, sys.argv[1])()
print(how_a_worker_logs())
"""


def how_a_worker_logs() -> list[tuple[str, int, list[str]]]:
    """Names, levels and handlers of the loggers of a worker."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(_loggers).result()


def _loggers() -> list[tuple[str, int, list[str]]]:
    of = {name: logging.getLogger(name) for name in (None, *logs.LOGGERS)}
    return [(str(name), one.level, [type(handler).__name__ for handler in one.handlers]) for name, one in of.items()]


def test_a_worker_logs_alike_whether_the_process_was_forked_or_started() -> None:
    assert in_a_process_of_its_own(_LOGS, "begin_here") == in_a_process_of_its_own(_LOGS, "begin")


_WORKS = """
import sys
from tests.flows.test_forked import imported_by_work
print(*imported_by_work(sys.argv[1]))
"""


def imported_by_work(output: str) -> list[str]:
    """The modules that a worker imports while it delivers its first shard."""
    forked.begin()
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("forkserver")) as pool:
        return pool.submit(_deliver, output).result()


def _deliver(output: str) -> list[str]:
    before = {*sys.modules}
    run.deliver(Location(url=output), [0], run.ENGINES)
    return sorted({*sys.modules} - before)


def test_a_worker_imports_nothing_with_its_first_shard(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    content = Cohort(tmp_path / "cohort", range(4)).content(output, explainers=["saliency", "gradcam"])
    run.begin(output, run.write_plan(output, prepared(content)))
    assert in_a_process_of_its_own(_WORKS, output.url).split() == []


def test_the_environment_is_as_before_and_the_process_has_a_workers(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[dict[str, str]] = []
    monkeypatch.setattr(forked.forkserver, "ensure_running", lambda: seen.append({**os.environ}))
    monkeypatch.setattr(forked.forkserver, "set_forkserver_preload", lambda modules: None)
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    monkeypatch.delenv("MALLOC_TOP_PAD_", raising=False)
    before = {**os.environ}
    forked.begin()
    assert {**os.environ} == before
    assert forked.worker_environment(threads=1).items() <= seen[0].items()
    assert seen[0]["PYTHONSAFEPATH"] == "1"


_INTERRUPTED = """
import os, signal
from multiprocessing import forkserver
from flows import forked
from tests.flows.test_forked import blocked_in
before = blocked_in(os.getpid())
forked.begin()
print(signal.SIGINT in blocked_in(forkserver._forkserver._forkserver_pid), blocked_in(os.getpid()) == before)
"""


def blocked_in(process: int) -> set[int]:
    """Numbers of the signals that a process blocks."""
    (mask,) = [line.split()[1] for line in Path(f"/proc/{process}/status").read_text().splitlines() if "SigBlk" in line]
    return {bit + 1 for bit in range(64) if int(mask, 16) >> bit & 1}


@pytest.mark.skipif(sys.platform != "linux", reason="blocked signals are read in /proc")
def test_an_interrupt_is_of_the_command_alone() -> None:
    """Ctrl-C reaches all processes of a terminal; the one that imports would answer by its traceback."""
    assert in_a_process_of_its_own(_INTERRUPTED).split() == ["True", "True"]


_SETS_UP = """
import os
import numpy as np, psutil, torch
from threadpoolctl import threadpool_info
from flows import forked

os.environ |= forked.worker_environment(threads=3)
forked.dask_setup(None)
held = psutil.Process().memory_info().rss
np.ones(2**25)
kept = psutil.Process().memory_info().rss - held
print(torch.get_num_threads(), {pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"})
print(kept > 2**27)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="malloc is told by glibc's own function")
def test_a_worker_has_its_own_number_of_threads_and_keeps_memory() -> None:
    assert in_a_process_of_its_own(_SETS_UP).split() == ["3", "{3}", "True"]


@pytest.mark.parametrize("sent", [shards._deliver, shards._fit, explain_cohort, evaluate_cohort, export_cohort])
def test_tasks_and_their_flows_take_no_engines_along(sent: Any) -> None:
    """Dask is handed tasks by value, and their flow with them: engines that went along would be built for each."""
    assert Engines.__name__.encode() not in cloudpickle.dumps(sent.fn)


def test_a_folder_whose_name_leaves_no_room_for_a_socket_is_no_place_for_the_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert forked.can_begin()
    monkeypatch.setattr(forked, "gettempdir", lambda: str(tmp_path / ("long" * 20)))
    assert not forked.can_begin()
    assert not cluster.begin_workers(cluster.PlaceConfig())
