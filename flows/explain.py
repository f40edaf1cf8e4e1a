"""The flow: plan, set up, map the shards over Dask workers, finish, report."""

import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any
from uuid import UUID

import httpx
from distributed import KilledWorker
from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.client.orchestration import get_client
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.cluster import ComputeConfig, cores, local_workers, task_runner, worker_memory
from flows.config import MetricConfig, Named, RunConfig
from flows.errors import CalledOff, ConfigurationError, Stopped
from flows.progress import bar
from tasks import commit, judge, manifest, store
from tasks.failures import check_commits
from tasks.finish import Summary, finish
from tasks.judge import judge_shards
from tasks.lease import Lease, Occupied, guard, lease
from tasks.metrics import add_metrics
from tasks.plan import Plan, groups
from tasks.prepare import Before, Prepared, prepare
from tasks.report import write_report
from tasks.resume import check_ours, erase, pending
from tasks.shard import explain_shards
from tasks.sources import Sources
from tasks.storage import Location

logger = logging.getLogger("cohortlens")

_LOCAL = ComputeConfig()
_POLL_SECONDS = 1.0
_UPDATE_SECONDS = 5.0


def prepare_run(config: RunConfig, *, extend: bool = False, overwrite: bool = False) -> Prepared:
    """Check a configuration and draw up its plan, which goes on from what the output holds; nothing is written.

    Raises
    ------
    ConfigurationError
        If the run could not be carried out.
    """
    workers = local_workers(config.compute)
    try:
        with bar("files read", "files") as progress:
            return prepare(
                cohort=config.cohort,
                model=config.model,
                explainers=config.explainers,
                target=config.target,
                metrics=config.metrics,
                uncertainty=config.uncertainty,
                batch_size=config.compute.batch_size,
                workers=workers,
                threads=max(1, cores() // workers),
                memory_limit=worker_memory(config.compute),
                progress=progress,
                before=Before.read(config.output, overwrite),
                extend=extend,
            )
    except ValueError as error:
        raise ConfigurationError(str(error)) from error


@flow(name="explain-cohort", validate_parameters=True, persist_result=False)
def explain_cohort(config: RunConfig, extend: bool = False, overwrite: bool = False) -> Summary:
    """Explain every image of a cohort. A run onto an output that is there does what is new, changed or missing.

    Parameters
    ----------
    extend
        Whether explainers may be added to those of the output.
    overwrite
        Whether a run that the output holds is deleted first.
    """
    return _carry_out(config.output, config.compute, lambda run_id: _plan(config, extend, overwrite, run_id))


@flow(name="evaluate-cohort", validate_parameters=True, persist_result=False)
def evaluate_cohort(
    output: Location,
    metrics: tuple[Named[MetricConfig], ...] = (),
    others: tuple[Location, ...] = (),
    compute: ComputeConfig = _LOCAL,
) -> Summary:
    """Judge the maps of a finished output by metrics, beside those that it holds already.

    Parameters
    ----------
    metrics
        None: all that the output has what it takes for, but for those that explain every image anew. With others: all
        that compare with them.
    others
        Outputs of other networks on the same images, to compare with.
    """
    return _carry_out(output, compute, lambda _: (_add_metrics(output, metrics, others), Sources({})))


def _carry_out(output: Location, compute: ComputeConfig, draw_up: Callable[[str], tuple[Plan, Sources]]) -> Summary:
    """Draw up a plan, do what the output lacks of it, and show what came of it."""
    run_id = str(flow_run.get_id())
    try:
        check_ours(output)
        with lease(output, run_id) as held:
            plan, sources = draw_up(run_id)
            shards = _set_up(output, plan)
            if shards:
                _map(output, compute, plan, sources, shards, held)
            summary = _finish(output)
            report = _report(output)
    except (Occupied, ValueError) as error:
        raise ConfigurationError(str(error)) from error
    except CalledOff as error:
        return Cancelled(message=str(error))  # type: ignore[return-value] # a state that is returned is the run's own
    except OSError as error:
        raise Stopped(f"{error}. What is delivered stays: mend this, and run again to go on") from error
    with _server_may_be_away():
        _publish(summary, report)
    return summary


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def _plan(config: RunConfig, extend: bool, overwrite: bool, run_id: str) -> tuple[Plan, Sources]:
    prepared = prepare_run(config, extend=extend, overwrite=overwrite)
    logger.info("identifiers: %s", prepared.identifiers)
    if overwrite:
        erase(config.output)
    if prepared.is_written:
        return prepared.plan, prepared.sources
    plan = prepared.plan.model_copy(update={"run_id": prepared.plan.run_id or run_id})
    plan.write(config.output, prepared.entries)
    logger.info("%d images in %d shards", plan.images, len(plan.shards))
    return plan, prepared.sources


@task(name="add metrics", cache_policy=NO_CACHE, persist_result=False)
def _add_metrics(output: Location, metrics: Sequence[MetricConfig], others: Sequence[Location]) -> Plan:
    return add_metrics(output, metrics, others)


@task(name="set up the store", cache_policy=NO_CACHE, persist_result=False)
def _set_up(output: Location, plan: Plan) -> list[int]:
    store.set_up(output, plan, manifest.read(output))
    return pending(output, plan)


@task(name="shards", cache_policy=NO_CACHE, persist_result=False)
def _explain_group(output: Location, shards: Sequence[int], sources: Sources, lease_number: int) -> int:
    check = guard(output, lease_number)
    images = explain_shards(output, shards, sources, check)
    judge_shards(output, shards, check)
    return images


@task(name="finish", cache_policy=NO_CACHE, persist_result=False)
def _finish(output: Location) -> Summary:
    return finish(output)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def _report(output: Location) -> Location:
    return write_report(output)


def _map(
    output: Location, compute: ComputeConfig, plan: Plan, sources: Sources, shards: Sequence[int], held: Lease
) -> None:
    def needed(group: Sequence[int]) -> Sources:
        return sources.of([*(entry.id for entry in manifest.read(output, group)), *plan.background])

    with task_runner(compute) as runner:
        futures = [
            runner.submit(
                _explain_group.with_options(task_run_name=_group_name(group, len(plan.shards))),
                parameters={
                    "output": output,
                    "shards": group,
                    "sources": needed(group),
                    "lease_number": held.number,
                },
            )
            for group in groups(shards, local_workers(compute))
        ]
        try:
            _watch(output, plan, shards, lambda: all(future.wrapped_future.done() for future in futures), held)
        except BaseException:
            for future in futures:
                future.wrapped_future.cancel()
            raise
        try:
            for future in futures:
                future.result()
        except KilledWorker as error:
            raise Stopped(
                f"{error.allowed_failures + 1} workers died of the same shards, the last one at "
                f"{error.last_worker.address}: see their logs, or give them more memory. What is delivered stays: run "
                "again to go on"
            ) from error
        except CancelledError as error:
            raise Stopped(
                "the Dask scheduler is gone, and with it what it was told. What is delivered stays: start it, and run "
                "again to go on"
            ) from error


def _group_name(group: Sequence[int], shards: int) -> str:
    first, last = group[0] + 1, group[-1] + 1
    if len(group) == 1:
        return f"shard {first} of {shards}"
    return (
        f"shards {first}–{last} of {shards}" if last - first + 1 == len(group) else f"{len(group)} shards of {shards}"
    )


def _watch(output: Location, plan: Plan, shards: Sequence[int], done: Callable[[], bool], held: Lease) -> None:
    """Show progress by the commits that are written, and stop what is no good, until the work is done."""
    last = -math.inf
    artifact = None
    folder = judge.FOLDER if plan.measures else commit.FOLDER
    before = commit.stamps(output, folder)
    commits = commit.Commit.read(output, before.keys() - set(shards))
    already = len(commits)
    with bar("shards done", "images") as progress:
        finished = False
        while not finished:
            finished = done()
            now = commit.stamps(output, folder)
            written = [
                shard for shard in shards if shard not in commits and shard in now and now[shard] != before.get(shard)
            ]
            commits |= commit.Commit.read(output, written)
            check_commits(plan, commits.values())
            if not held():
                raise Occupied(f"another run has taken the lease of {output}, since this one could not renew it")
            progress(
                len(commits),
                len(plan.shards),
                sum(plan.shards[shard].images for shard in shards if shard in commits),
            )
            if finished or time.monotonic() - last > _UPDATE_SECONDS:
                last = time.monotonic()
                share = (len(commits) - already) / len(shards)
                with _server_may_be_away():
                    _check_cancelled()
                    artifact = _show(artifact, 100.0 if finished else 100 * min(share, 1.0))
            if not finished:
                time.sleep(_POLL_SECONDS)


def _show(artifact: Any, progress: float) -> Any:
    """Show progress in the UI; returns the artifact that does."""
    if artifact is None:
        return create_progress_artifact(progress=progress, key="shards", description="Shards delivered")
    update_progress_artifact(artifact, progress=progress)
    return artifact


@contextmanager
def _server_may_be_away() -> Iterator[None]:
    """Go on without Prefect's server: it shows how the work goes, and the work does not need it."""
    try:
        yield
    except httpx.HTTPError as error:
        logger.warning("Prefect's server does not answer (%s); the work goes on", type(error).__name__)


def _check_cancelled() -> None:
    """Stop if the run was cancelled in the UI: only runs of a deployment are stopped by Prefect itself."""
    with get_client(sync_client=True) as client:
        state = client.read_flow_run(UUID(str(flow_run.get_id()))).state
    if state and (state.is_cancelling() or state.is_cancelled()):
        raise CalledOff("the run was cancelled. What is delivered stays: run again to go on")


def _publish(summary: Summary, report: Location) -> None:
    rows = {key: value for key, value in asdict(summary).items() if key not in ("flags", "seconds")}
    rows |= {f"flagged: {flag}": images for flag, images in summary.flags.items()}
    rows |= {f"seconds to {stage}": round(seconds, 1) for stage, seconds in summary.seconds.items()}
    create_table_artifact(
        table=[{"": name.replace("_", " "), "value": value} for name, value in rows.items()],
        key="summary",
        description="What became of the cohort",
    )
    create_link_artifact(link=_link(report), key="report", link_text="Report", description="The pictures")


def _link(report: Location) -> str:
    return f"file://{report.url}" if report.is_local else report.url
