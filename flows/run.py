"""The flow's part of every run: set up, let workers deliver, finish, report, as `tasks.run` has it."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run
from prefect.states import Cancelled

from flows.addresses import address_of
from flows.alarms import quarantined_too_many, tell_of_drift, tell_of_failures
from flows.artifacts import publish, publish_evidence, publish_pages, server_may_be_away
from flows.cluster import PlaceConfig, begin_workers
from flows.errors import CalledOff, Stopped
from flows.logs import told_to_prefect
from flows.shards import deliver
from tasks import run, telemetry
from tasks.cohort.sources import Sources
from tasks.plan.plan import Plan, begun
from tasks.run import Lacking, begin, write_pages
from tasks.storage.lease import lease
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.telemetry import Reading
from tasks.work.failures import TooManyFailures
from tasks.work.finish import Summary, finish
from tasks.work.images import survey_again
from tasks.work.pending import check_ours
from tasks.work.results import compute_results

if TYPE_CHECKING:
    import pandas as pd

    from tasks.report.drift import Shift

done: dict[str, Summary] = {}
"""Summaries of the runs of this process, by output. Prefect cannot tell them while its server is away."""


@told_to_prefect()
def carry_out(
    output: Location,
    compute: PlaceConfig,
    draw_up: Callable[[str], tuple[Plan, Sources | None]],
    output_url: str | None = None,
) -> Summary:
    """Draw up a plan, do what the output lacks of it, and show what came of it.

    Parameters
    ----------
    draw_up
        Makes the plan, given the run's id, and tells where the images lie; None: the cohort has not been surveyed.
    """
    run_id = str(flow_run.get_id())
    before = telemetry.read()
    readings: list[Reading] = []
    try:
        check_ours(output)
        with lease(output, run_id) as held:
            begin_workers(compute)
            evidence = _read_evidence(output)
            plan, sources = draw_up(run_id)
            lacking = _begin(output, plan)
            if sources is None:
                sources = _find_images(output, plan, lacking)
            if lacking:
                readings = deliver(output, compute, plan, sources, lacking, held)
            del sources  # they take half a gigabyte for a million images, and what follows needs it
            if plan.results:
                _compute_results(output)
            summary = _finish(output)
            report = _report(output)
            worse = _worsened(output, evidence)
    except TooManyFailures as error:
        quarantined_too_many(output, str(error).splitlines()[0])
        raise
    except CalledOff as error:
        return Cancelled(message=str(error))  # type: ignore[return-value] # a state that is returned is the run's own
    except OSError as error:
        said = str(error) or type(error).__name__
        raise Stopped(f"{said}. What is delivered stays: mend this, and run again to go on") from error
    with server_may_be_away():
        delivered = sum(plan.shards[shard].images for shard in lacking.shards)
        spent = telemetry.spent(readings, [before, telemetry.read()])
        publish(summary, delivered, spent, compute.prices)
        publish_pages(output, report, address_of(output, output_url))
        publish_evidence(output)
    tell_of_failures(output, plan, summary)
    tell_of_drift(output, worse)
    done[output.url] = summary
    return summary


@task(name="set up the store", cache_policy=NO_CACHE, persist_result=False)
def _begin(output: Location, plan: Plan) -> Lacking:
    return begin(output, plan)


@task(name="find images", cache_policy=NO_CACHE, persist_result=False)
def _find_images(output: Location, plan: Plan, lacking: Lacking) -> Sources:
    """Survey the cohort once more if any image has to be read; an image that is delivered is taken from the store."""
    commits = Commit.read(output, lacking.shards)
    delivered = all(shard in commits and commits[shard].is_whole(plan) for shard in lacking.shards)
    return Sources({}) if delivered and not lacking.fits else survey_again(output, plan)


@task(name="results", cache_policy=NO_CACHE, persist_result=False)
def _compute_results(output: Location) -> None:
    compute_results(output, run.ENGINES)


@task(name="finish", cache_policy=NO_CACHE, persist_result=False)
def _finish(output: Location) -> Summary:
    return finish(output)


@task(name="report", cache_policy=NO_CACHE, persist_result=False)
def _report(output: Location) -> Location:
    return write_pages(output)


def _read_evidence(output: Location) -> "pd.DataFrame | None":
    """Read the evidence of the last report; what reads it takes a second to import, and a first run has none."""
    if not begun(output):
        return None
    from tasks.report.drift import read_evidence

    return read_evidence(output)


def _worsened(output: Location, before: "pd.DataFrame | None") -> "list[Shift]":
    from tasks.report.drift import directions, read_evidence, worsened

    return worsened(before, read_evidence(output), directions(output))
