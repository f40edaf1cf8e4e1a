"""The process that workers are forked from: it holds what they need, and nothing that a fork would not have."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import cloudpickle
import pytest

from flows import cluster, forked, shards
from flows.evaluate import evaluate_cohort
from flows.explain import explain_cohort
from flows.export import export_cohort
from tasks import run
from tasks.storage.location import Location
from tasks.work.engines import Engines
from tests.flows.forks import SAID_BEFORE
from tests.tasks.outputs import Cohort, prepared


def in_a_process_of_its_own(code: str, *arguments: str) -> str:
    """Run code in a process that has begun nothing yet; the pool's own would be kept."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, "-c", code, *arguments], env=environment, check=True, stdout=subprocess.PIPE, text=True
    )
    return ran.stdout


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Findings where the process was started."""
    folder = tmp_path_factory.mktemp("begun")
    output = Location(url=str(folder / "out"))
    content = Cohort(folder / "cohort", range(4)).content(output, explainers=["saliency", "gradcam"])
    run.begin(output, run.write_plan(output, prepared(content)))
    said = in_a_process_of_its_own("import sys; from tests.flows.forks import begin; begin(sys.argv[1])", output.url)
    return dict(json.loads(said))


@pytest.fixture(scope="module")
def begun_here() -> dict[str, Any]:
    """Findings where the process was forked."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPENBLAS_NUM_THREADS", "1")
        patch.delenv("PYTHONUNBUFFERED", raising=False)
        said = in_a_process_of_its_own("from tests.flows.forks import begin_here; begin_here()")
    return dict(json.loads(said.replace(SAID_BEFORE, ""))) | {"said before": said.count(SAID_BEFORE)}


@pytest.mark.skipif(sys.platform != "linux", reason="threads of the system are counted in /proc")
def test_no_thread_file_system_or_event_loop_is_there_before_the_fork(begun: dict[str, Any]) -> None:
    assert begun["worker"] == [["MainThread"], 1, 0, 0]


@pytest.mark.skipif(sys.platform != "linux", reason="threads of the system are counted in /proc")
def test_a_command_has_no_thread_file_system_or_event_loop_when_it_is_forked(begun_here: dict[str, Any]) -> None:
    """OpenBLAS ends its threads before a fork, and is told to have none; jemalloc sees to its thread, too."""
    assert begun_here["before"] == [[0, 0, "jemalloc_bg_thd"]]


def test_the_process_keeps_no_file_of_the_command_open(begun_here: dict[str, Any]) -> None:
    """Prefect's server ends when its pipe from the command is closed, however the command ended."""
    assert begun_here["closed"]


def test_workers_do_not_repeat_what_the_command_said_before(begun_here: dict[str, Any]) -> None:
    assert begun_here["said before"] == 1


def test_a_worker_logs_alike_whether_the_process_was_forked_or_started(
    begun: dict[str, Any], begun_here: dict[str, Any]
) -> None:
    assert begun["logs"] == begun_here["logs"]


def test_a_worker_imports_nothing_with_its_first_shard(begun: dict[str, Any]) -> None:
    assert begun["imported"] == []


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


@pytest.mark.skipif(sys.platform != "linux", reason="blocked signals are read in /proc")
def test_an_interrupt_is_of_the_command_alone(begun: dict[str, Any]) -> None:
    """Ctrl-C reaches all processes of a terminal; the one that imports would answer by its traceback."""
    assert begun["interrupts blocked"] and begun["signals as before"]


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
