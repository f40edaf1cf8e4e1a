"""The shards of a plan, mapped over Dask workers, and watched until they are delivered."""

import logging
import math
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from itertools import chain, islice
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

from distributed import KilledWorker, LocalCluster
from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run

from flows.artifacts import Progress, server_may_be_away, without_retries
from flows.cluster import PlaceConfig, expected_workers, task_runner
from flows.errors import CalledOff, Stopped
from flows.logs import told_to_prefect
from flows.progress import bar
from tasks import run, telemetry
from tasks.cohort.sources import Sources
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import groups
from tasks.run import Lacking
from tasks.storage.lease import Ended, Lease, Occupied, guard
from tasks.storage.location import Location
from tasks.store import commit
from tasks.telemetry import Reading
from tasks.work.evaluate import Evaluation
from tasks.work.failures import Seen
from tasks.work.fit import fit

logger = logging.getLogger("cohortlens")

PERFORMANCE_REPORT = "report/dask.html"

_POLL_SECONDS = 1.0
_LOOKING = 0.1
"""The largest share of the time that is spent on listing commits: the more there are, the longer it takes."""

_UPDATE_SECONDS = 5.0

_ALONE_SECONDS = 180.0
"""The longest time that this machine may be without workers. Where one has died, Dask starts another in seconds; where
one has ended by itself or could not start, it starts none."""


def deliver(
    output: Location, compute: PlaceConfig, plan: Plan, sources: Sources, lacking: Lacking, held: Lease
) -> list[Reading]:
    """Let workers compute artefacts, then deliver shards.

    Returns what the workers' processes had counted before and after each task.
    """
    shards = lacking.shards
    ids = manifest.read_ids(output, shards)
    watch = _Watch(output, plan, shards, held)

    def needed(group: Sequence[int]) -> Sources:
        return sources.of(chain.from_iterable(islice(ids, len(group))))

    with workers(output, compute) as runner:

        def submit(task: Any, name: str, **parameters: Any) -> Any:
            named = task.with_options(task_run_name=name)
            return runner.submit(named, parameters={"output": output, "lease_number": held.number, **parameters})

        readings = []
        if lacking.fits:
            images = [id for planned in plan.fits if planned.title in lacking.fits for id in planned.images]
            fitting = submit(_fit, f"fit {', '.join(lacking.fits)}", sources=sources.of(images))
            readings += results_of([fitting], watch)
        delivering = [
            submit(_deliver, _group_name(group, len(plan.shards)), shards=group, sources=needed(group))
            for group in groups(shards, expected_workers(compute))
        ]
        readings += results_of(delivering, watch)
    return [*chain.from_iterable(readings)]


def results_of(futures: Sequence[Any], watch: "Watch") -> list[Any]:
    """Wait for what was submitted, and stop it if there is a reason to.

    Raises
    ------
    Stopped
        If workers die of the same work again and again, all of them are gone, the scheduler is gone, or another run has
        begun.
    """
    present = _Presence(futures[0].wrapped_future.client.cluster)

    def done() -> bool:
        present.check()
        return all(future.wrapped_future.done() for future in futures)

    try:
        with without_retries():
            watch.until(done)
    except BaseException:
        for future in futures:
            future.wrapped_future.cancel()
        raise
    try:
        return [future.result() for future in futures]
    except KilledWorker as error:
        raise Stopped(
            f"{error.allowed_failures + 1} workers died of the same work, the last one at "
            f"{error.last_worker.address}: see their logs, or give them more memory. What is delivered stays: run "
            "again to go on"
        ) from error
    except CancelledError as error:
        raise Stopped(
            "the Dask scheduler is gone, and with it what it was told. What is delivered stays: start it, and run "
            "again to go on"
        ) from error
    except Ended as error:
        raise Stopped(str(error)) from error


@contextmanager
def workers(output: Location, compute: PlaceConfig) -> Iterator[Any]:
    """Start the task runner, and keep Dask's report on it if one is asked for."""
    is_done = False
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "dask.html" if compute.performance_report else None
        try:
            with task_runner(compute, page) as runner:
                yield runner
                is_done = True
        except TimeoutError:
            if not is_done:
                raise
            logger.warning("the Dask workers are done, and did not end in time: they were killed")
        if page and page.exists():
            (output / PERFORMANCE_REPORT).write(page.read_bytes())


def _group_name(group: Sequence[int], shards: int) -> str:
    first, last = group[0] + 1, group[-1] + 1
    if len(group) == 1:
        return f"shard {first} of {shards}"
    return (
        f"shards {first}–{last} of {shards}" if last - first + 1 == len(group) else f"{len(group)} shards of {shards}"
    )


class _Presence:
    """Notices that all workers of this machine are gone. Nobody here knows whether those elsewhere are yet to come."""

    def __init__(self, cluster: Any) -> None:
        self._scheduler = cluster.scheduler if isinstance(cluster, LocalCluster) else None
        self._seen = time.monotonic()

    def check(self) -> None:
        """Stop if there have been no workers for minutes."""
        if self._scheduler is None or self._scheduler.workers:
            self._seen = time.monotonic()
        elif time.monotonic() - self._seen > _ALONE_SECONDS:
            raise Stopped(
                f"the workers of this machine have ended, and none has begun for {_ALONE_SECONDS:.0f} s: see the run's "
                "log. What is delivered stays: run again to go on"
            )


class Watch(Protocol):
    """Waits for the work, and raises if there is a reason to stop."""

    def until(self, done: Callable[[], bool]) -> None: ...


class _Watch:
    """Shows how far some shards are, by the commits that are written, and stops what is no good."""

    def __init__(self, output: Location, plan: Plan, shards: Sequence[int], held: Lease) -> None:
        self._output, self._plan, self._shards, self._held = output, plan, shards, held
        self._shown = Progress(plan.images, plan.images - sum(plan.shards[shard].images for shard in shards))
        self._folder = Evaluation.folder if plan.evaluated else commit.FOLDER
        self._before = commit.stamps(output, self._folder)
        self._seen = Seen(plan, commit.Commit.read(output, self._before.keys() - set(shards)))

    def until(self, done: Callable[[], bool]) -> None:
        """Watch until the work is done.

        Raises
        ------
        Occupied
            If another run has taken the lease.
        CalledOff
            If the run was cancelled.
        TooManyFailures
            If more of the cohort is quarantined or failed than is allowed.
        """
        last = look = -math.inf
        finished = False
        with bar("shards done", "images") as progress:
            while not finished:
                finished = done()
                if finished or time.monotonic() >= look:
                    began = time.monotonic()
                    self._look()
                    look = time.monotonic() + (time.monotonic() - began) / _LOOKING
                check_lease(self._held, self._output)
                images = sum(self._plan.shards[shard].images for shard in self._shards if shard in self._seen.shards)
                progress(len(self._seen.shards), len(self._plan.shards), images)
                if finished or time.monotonic() - last > _UPDATE_SECONDS:
                    last = time.monotonic()
                    with server_may_be_away():
                        check_cancelled()
                        self._shown.show(images)
                if not finished:
                    time.sleep(_POLL_SECONDS)

    def _look(self) -> None:
        now, seen = commit.stamps(self._output, self._folder), self._seen.shards
        written = [
            shard
            for shard in self._shards
            if shard not in seen and shard in now and now[shard] != self._before.get(shard)
        ]
        self._seen.add(commit.Commit.read(self._output, written))


# Dask is handed a task by value, with what it names of this module: engines have to be named as another module's, or
# each task would have its own, and build the network again.


@task(name="fit", cache_policy=NO_CACHE, persist_result=False)
def _fit(output: Location, sources: Sources, lease_number: int) -> tuple[Reading, Reading]:
    def check() -> None:
        guard(output, lease_number)()  # a new one looks at once: a fit changes the plan, which may be another run's now

    before = telemetry.read()
    with told_to_prefect():
        fit(output, sources, run.ENGINES, check)
    return before, telemetry.read()


@task(name="shards", cache_policy=NO_CACHE, persist_result=False)
def _deliver(output: Location, shards: Sequence[int], sources: Sources, lease_number: int) -> tuple[Reading, Reading]:
    before = telemetry.read()
    with told_to_prefect():
        run.deliver(output, shards, run.ENGINES, sources, guard(output, lease_number))
    return before, telemetry.read()


def check_lease(held: Lease, place: Location) -> None:
    """Stop if the lease of a place is another's."""
    if not held():
        raise Occupied(f"another run has taken the lease of {place}, since this one could not renew it")


def check_cancelled() -> None:
    """Stop if the run was cancelled in the UI: only runs of a deployment are stopped by Prefect itself."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(flow_run.get_id()))).state
    if state and (state.is_cancelling() or state.is_cancelled()):
        raise CalledOff("the run was cancelled. What is delivered stays: run again to go on")
