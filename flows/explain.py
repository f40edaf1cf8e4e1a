"""The flow that explains a cohort: check and plan, then carry the plan out."""

import logging
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.cluster import place_of
from flows.config import RunConfig, described
from flows.progress import bar
from flows.run import carry_out
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.sources import Sources
from tasks.plan.plan import Plan
from tasks.prepare.prepare import Before, Prepared, prepare
from tasks.run import write_plan
from tasks.work.finish import Summary

logger = logging.getLogger("cohortlens")


def prepare_run(config: RunConfig, *, extend: bool = False, overwrite: bool = False, only: Selection = ALL) -> Prepared:
    """Check a configuration and draw up its plan, which goes on from what the output holds; nothing is written.

    Raises
    ------
    ConfigurationError
        If the run could not be carried out.
    """
    place, before = place_of(config.compute), Before.read(config.output, overwrite)
    with bar("files read", "files") as progress:
        return prepare(config.recipe, place, before, extend=extend, only=only, progress=progress)


@flow(name="explain-cohort", validate_parameters=True, persist_result=False)
def explain_cohort(
    config: Annotated[RunConfig, described("What is explained, how, and where to")],
    extend: Annotated[bool, described("Whether explainers may be added to those of the output")] = False,
    overwrite: Annotated[bool, described("Whether a run that the output holds is deleted first")] = False,
    only: Annotated[
        Selection, described("Which images of the cohort this run is about; the others stay as they are")
    ] = ALL,
) -> Summary:
    """Explain every image of a cohort. A run onto an output that is there does what is new, changed or missing."""
    selected = only.at(flow_run.get_scheduled_start_time())
    return carry_out(
        config.output,
        config.compute,
        lambda run_id: _plan(config, extend, overwrite, selected, run_id),
        config.output_url,
    )


@task(name="plan", cache_policy=NO_CACHE, persist_result=False)
def _plan(config: RunConfig, extend: bool, overwrite: bool, only: Selection, run_id: str) -> tuple[Plan, Sources]:
    prepared = prepare_run(config, extend=extend, overwrite=overwrite, only=only)
    logger.info("identifiers: %s", prepared.identifiers)
    return write_plan(config.output, prepared, overwrite=overwrite, run_id=run_id), prepared.sources
