"""Whole runs, from the command line: what they run on dies, and they are stopped themselves."""

import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
import pytest
from distributed import Client

from tasks import run as course
from tasks.cohort.pseudonyms import VARIABLE
from tasks.plan.plan import Plan
from tasks.storage.lease import lease
from tasks.storage.location import Location
from tasks.store.commit import stamps
from tasks.work.engines import Engines
from tests.faults import sabotage
from tests.faults.conftest import IMAGES, SOAK, Measured
from tests.faults.runs import PrefectServer, Run, worker_environment
from tests.faults.workers import begin, end
from tests.integration.processes import dask_cluster, wait
from tests.seaweedfs import free_ports
from tests.tasks.outputs import carry_out

PACE = 0.3

pytestmark = pytest.mark.timeout(900)  # where the machine is busy: a run imports in up to four processes

Begun = Callable[[dict[str, Any], Path, str | None], Run]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    server = PrefectServer(tmp_path_factory.mktemp("prefect"), *free_ports(1))
    server.start()
    yield server
    server.kill()


@pytest.fixture
def begun() -> Iterator[Begun]:
    """Begin runs, none of which outlives its test."""
    with ExitStack() as stack:

        def begin(content: dict[str, Any], folder: Path, server: str | None) -> Run:
            run = Run(content, folder, server)
            stack.callback(run.kill)
            return run

        yield begin


def compute(content: dict[str, Any], **where: Any) -> dict[str, Any]:
    return content | {"compute": content["compute"] | where}


def test_workers_and_the_prefect_server_killed(
    content: Any, local: Location, tmp_path: Path, server: PrefectServer, measured: Measured, begun: Begun
) -> None:
    """A worker dies half-way through storing the artefact, then both at once; then the server is gone for a while."""
    deaths = [(stage, number % 3) for number, stage in enumerate(sabotage.STAGES) if stage != "computing results"]
    deaths = deaths if SOAK else [("writing", 0)]
    folder = sabotage.plan_deaths(tmp_path / "deaths", deaths, PACE)
    run = begun(compute(content(local), workers=2), folder, server.url)
    run.wait_for_commits(1)
    wait(lambda: len(run.workers) == 2)
    killed = run.workers
    for worker in killed:
        worker.kill()
    assert len(killed) == 2
    (folder / "pace").write_text("1.0")
    server.kill()
    delivered = len(stamps(local))
    wait(lambda: len(stamps(local)) > delivered)
    server.start()
    assert run.end() == 0, run.said
    assert sabotage.deaths_left(folder) == 0
    assert server.latest()["state_type"] == "COMPLETED"
    faults = len(deaths) + len(killed) + 1
    work = sabotage.explained(folder) / IMAGES
    measured("run: a worker killed, then both, then Prefect's server", faults, [local], work)


def test_the_flows_process_killed(
    content: Any,
    explained: list[int],
    local: Location,
    tmp_path: Path,
    server: PrefectServer,
    measured: Measured,
    begun: Begun,
) -> None:
    """Its workers end with it, though nobody tells them to."""
    folder = sabotage.plan_deaths(tmp_path / "deaths", [], PACE)
    run = begun(compute(content(local), workers=1), folder, server.url)
    run.wait_for_commits(1)
    workers = run.workers
    run.process.kill()
    run.end()
    assert workers
    psutil.wait_procs(workers, timeout=60)
    assert not [worker for worker in workers if worker.is_running()]
    carry_out(content(local))
    measured("run: its process killed, run again", 1, [local], (sabotage.explained(folder) + sum(explained)) / IMAGES)


@pytest.mark.parametrize("how", ["cancelled in the UI", "SIGTERM", *(["SIGINT"] if SOAK else [])])
def test_a_run_is_stopped(
    how: str,
    content: Any,
    explained: list[int],
    local: Location,
    tmp_path: Path,
    server: PrefectServer,
    measured: Measured,
    begun: Begun,
) -> None:
    """It ends within a minute, and leaves no process and nothing half written."""
    folder = sabotage.plan_deaths(tmp_path / "deaths", [], PACE)
    own_server = how == "SIGTERM"
    run = begun(compute(content(local), workers=1), folder, None if own_server else server.url)
    run.wait_for_commits(1)
    left = run.descendants
    began = time.monotonic()
    match how:
        case "SIGTERM":
            run.process.terminate()
        case "SIGINT":
            run.process.send_signal(signal.SIGINT)
        case _:
            run_id = server.latest()["id"]
            server.ask(f"flow_runs/{run_id}/set_state", {"state": {"type": "CANCELLING", "name": "Cancelling"}})
    assert run.end() != 0
    psutil.wait_procs(left, timeout=60)
    seconds = time.monotonic() - began
    assert not [process for process in left if process.is_running()], run.said
    assert seconds < 60
    assert not [name for name in local.sizes() if name.endswith(".partial") or name.startswith("lease")]
    if how == "cancelled in the UI":
        assert "the run was cancelled. What is delivered stays" in run.said
        assert server.latest()["state_type"] == "CANCELLED"
    carry_out(content(local))
    measured(
        f"run: {how} (ended in {seconds:.0f} s)", 1, [local], (sabotage.explained(folder) + sum(explained)) / IMAGES
    )


@pytest.mark.skipif(not SOAK, reason="takes minutes: `make soak` has it")
@pytest.mark.parametrize("until", ["a minute after the end", "long after"])
def test_the_prefect_server_gone_when_a_run_ends(
    until: str,
    content: Any,
    local: Location,
    tmp_path: Path,
    server: PrefectServer,
    measured: Measured,
    begun: Begun,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PREFECT_CLIENT_MAX_RETRIES", "1" if until == "long after" else "7")
    folder = sabotage.plan_deaths(tmp_path / "deaths", [], pace=2.0)
    run = begun(compute(content(local), workers=2), folder, server.url)
    run.wait_for_commits(1)
    server.kill()
    delivered = len(stamps(local))
    wait(lambda: len(stamps(local)) > delivered)
    if until == "long after":
        assert run.end() == 0, run.said
        assert "the run is done; but Prefect's server" in run.said
        server.start()
    else:
        wait(lambda: len(stamps(local)) == len(Plan.read(local).shards), 300)
        time.sleep(60)
        server.start()
        assert run.end() == 0, run.said
        assert server.latest()["state_type"] == "COMPLETED"
    measured(f"run: Prefect's server killed, started again {until}", 1, [local], sabotage.explained(folder) / IMAGES)


def test_a_scheduler_with_workers_elsewhere(
    content: Any, explained: list[int], tmp_path: Path, server: PrefectServer, measured: Measured, begun: Begun
) -> None:
    """All is explained there; workers stop when their run is killed; and the scheduler is killed."""
    whole, orphaned, deserted = (Location(url=str(tmp_path / name)) for name in ("whole", "orphaned", "deserted"))
    folder = sabotage.plan_deaths(tmp_path / "deaths", [])
    known = worker_environment(folder) | {"PREFECT_API_URL": server.url, VARIABLE: os.environ[VARIABLE]}
    with dask_cluster(folder, known, workers=2) as cluster:
        output, plan = begin(content(whole))
        shuffled = random.Random(0).sample(range(len(plan.shards)), len(plan.shards))
        with Client(cluster.address) as client:
            client.gather(client.map(lambda shard: course.deliver(output, [shard], Engines()), shuffled))
        end(output)
        measured("two workers behind a scheduler, shards shuffled", 1, [whole], sabotage.explained(folder) / IMAGES)

        (folder / "pace").write_text(str(PACE))
        before = sabotage.explained(folder)
        run = begun(compute(content(orphaned), scheduler=cluster.address), folder, server.url)
        run.wait_for_commits(1)
        run.process.kill()
        run.end()
        with lease(orphaned, "the next run"):
            carry_out(content(orphaned))
            time.sleep(4)
            in_vain = sabotage.explained(folder)
            time.sleep(2)
            assert sabotage.explained(folder) == in_vain
        work = (in_vain - before + sum(explained)) / IMAGES
        explained.clear()
        measured("run: its process killed, workers elsewhere live on", 1, [orphaned], work)

        before = sabotage.explained(folder)
        run = begun(compute(content(deserted), scheduler=cluster.address), folder, server.url)
        run.wait_for_commits(1)
        cluster.scheduler.kill()
        assert run.end() == 3, run.said
        assert "the Dask scheduler is gone" in run.said
    carry_out(content(deserted))
    work = (sabotage.explained(folder) - before + sum(explained)) / IMAGES
    measured("run: scheduler killed, run again", 1, [deserted], work)
