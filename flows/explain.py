"""The flow: plan, set up, map the shards over Dask workers, finish, report."""

import logging
import time
from dataclasses import asdict
from typing import Any

from prefect import flow, task
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.cluster import cores, local_workers, task_runner, worker_memory
from flows.config import RunConfig
from flows.errors import ConfigurationError
from flows.progress import bar
from tasks import commit, manifest, store
from tasks.finish import Summary, finish
from tasks.plan import Plan, begun, check_free, groups
from tasks.prepare import Prepared, prepare
from tasks.report import write_report
from tasks.shard import explain_shards
from tasks.storage import Location

logger = logging.getLogger("cohortlens")

_POLL_SECONDS = 1.0
_UPDATE_SECONDS = 5.0


def prepare_run(config: RunConfig) -> Prepared:
    """Check a configuration and draw up its plan; nothing is written.

    Raises
    ------
    ConfigurationError
        If the run could not be carried out.
    """
    workers = local_workers(config.compute)
    try:
        with bar("files read", "files") as progress:
            prepared = prepare(
                cohort=config.cohort,
                model=config.model,
                explainers=config.explainers,
                target=config.target,
                batch_size=config.compute.batch_size,
                workers=workers,
                threads=max(1, cores() // workers),
                memory_limit=worker_memory(config.compute),
                progress=progress,
            )
        check_free(config.output, prepared.plan)
    except ValueError as error:
        raise ConfigurationError(str(error)) from error
    return prepared


@flow(name="explain-cohort", validate_parameters=True, persist_result=False)
def explain_cohort(config: RunConfig) -> Summary:
    """Explain every image of a cohort. A run onto an output that holds the same plan goes on where it stopped."""
    plan = _plan(config)
    _set_up(config.output, plan)
    _map(config, plan)
    summary = _finish(config.output)
    report = _report(config.output)
    _publish(summary, report)
    return summary


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def _plan(config: RunConfig) -> Plan:
    prepared = prepare_run(config)
    if not begun(config.output):
        manifest.write(config.output, prepared.entries, prepared.plan.images_per_shard)
        prepared.plan.write(config.output)
    logger.info("%d images in %d shards", prepared.plan.images, len(prepared.plan.shards))
    return prepared.plan


@task(name="set up the store", cache_policy=NO_CACHE, persist_result=False)
def _set_up(output: Location, plan: Plan) -> None:
    if not commit.names(output):  # a commit means that the store had been set up whole
        store.set_up(output, plan, manifest.read(output), run_id=str(flow_run.get_id()))


@task(name="shards", cache_policy=NO_CACHE, persist_result=False)
def _explain_group(output: Location, shards: range) -> int:
    return explain_shards(output, shards)


@task(name="finish", cache_policy=NO_CACHE, persist_result=False)
def _finish(output: Location) -> Summary:
    return finish(output)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def _report(output: Location) -> Location:
    return write_report(output)


def _map(config: RunConfig, plan: Plan) -> None:
    output = config.output
    with task_runner(config.compute) as runner:
        futures = [
            runner.submit(
                _explain_group.with_options(task_run_name=_group_name(group, len(plan.shards))),
                parameters={"output": output, "shards": group},
            )
            for group in groups(plan, local_workers(config.compute))
        ]
        _watch(output, plan, lambda: all(future.wrapped_future.done() for future in futures))
        for future in futures:
            future.result()


def _group_name(group: range, shards: int) -> str:
    which = f"shard {group.stop}" if len(group) == 1 else f"shards {group.start + 1}–{group.stop}"
    return f"{which} of {shards}"


def _watch(output: Location, plan: Plan, done: Any) -> None:
    """Show progress by the commits that are there, until the work is done."""
    artifact: Any = create_progress_artifact(progress=0.0, key="shards", description="Shards delivered")
    last = time.monotonic()
    with bar("shards done", "images") as progress:
        finished = False
        while not finished:
            finished = done()
            shards = len(commit.names(output))
            progress(shards, len(plan.shards), min(shards * plan.images_per_shard, plan.images))
            if finished or time.monotonic() - last > _UPDATE_SECONDS:
                last = time.monotonic()
                update_progress_artifact(artifact, progress=100 * shards / len(plan.shards))
            if not finished:
                time.sleep(_POLL_SECONDS)


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
