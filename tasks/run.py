"""The course of a run as plain functions: plan, fit, shards, results, finish, report.

Prefect's tasks in `flows/` are shells around these; `run` does all of it in this process, without Prefect and Dask.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tasks.cohort.selection import ALL, Selection
from tasks.cohort.sources import Find, Sources
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.recipe import Recipe
from tasks.prepare.place import HERE, Place
from tasks.prepare.prepare import Before, Prepared, prepare
from tasks.storage.lease import lease
from tasks.storage.location import Location
from tasks.store.scales import reaches_of
from tasks.store.template import open_store, set_up
from tasks.work.engines import Engines
from tasks.work.evaluate import evaluate_shards
from tasks.work.explain import explain_shards
from tasks.work.finish import Summary, finish
from tasks.work.fit import fit, unfitted
from tasks.work.images import find_again
from tasks.work.pending import check_ours, erase, pending
from tasks.work.results import compute_results

logger = logging.getLogger("cohortlens")


ENGINES = Engines()
"""The engines of this process, whatever the number of its tasks."""


@dataclass(frozen=True)
class Lacking:
    """The artefacts, by title, and the shards, by number, that an output lacks of its plan."""

    fits: tuple[str, ...]
    shards: list[int]

    def __bool__(self) -> bool:
        return bool(self.fits or self.shards)


def run(
    recipe: Recipe,
    output: Location,
    place: Place = HERE,
    *,
    extend: bool = False,
    overwrite: bool = False,
    only: Selection = ALL,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Summary:
    """Explain a cohort in this process. Of an output that is there, only what is new, changed or missing is done.

    Parameters
    ----------
    extend
        Whether explainers may be added to those of the output.
    overwrite
        Whether a run that the output holds is deleted first.
    only
        Which images of the cohort the run is about; the others stay as they are.
    progress
        Called with the number of files surveyed and of all files.

    Raises
    ------
    ConfigurationError
        If the recipe cannot be carried out: which field, what was found, what to do.
    Occupied
        If another run is at work on the output.
    TooManyFailures
        If more images than the cohort allows cannot be explained.
    """
    check_ours(output)
    with lease(output, "run"):
        before = Before.read(output, overwrite)
        prepared = prepare(recipe, place, before, extend=extend, only=only, progress=progress)
        write_plan(output, prepared, overwrite=overwrite)
        summary = complete(output, Engines(), prepared.sources)
        write_pages(output)
    return summary


def write_pages(output: Location) -> Location:
    """Write the report of a finished output and what its viewer needs; give where the report is."""
    from tasks.report import write_report  # workers import this module, and the report's imports take a second
    from tasks.viewer import write_viewer

    reaches = reaches_of(open_store(output), Plan.read(output).outputs.values())
    report = write_report(output, reaches)
    write_viewer(output, reaches)
    return report


def write_plan(output: Location, prepared: Prepared, *, overwrite: bool = False, run_id: str = "") -> Plan:
    """Write a plan and its manifest, if the output does not hold just these."""
    if overwrite:
        erase(output)
    if prepared.is_written:
        return prepared.plan
    plan = prepared.plan.model_copy(update={"run_id": prepared.plan.run_id or run_id})
    plan.write(output, prepared.entries)
    logger.info("%d images in %d shards", plan.images, len(plan.shards))
    return plan


def begin(output: Location, plan: Plan) -> Lacking:
    """Set the store up, mend what a killed run left half done, and find out what is lacking."""
    set_up(output, plan, manifest.load(output, sources=False))
    shards = pending(output, plan)
    fits = unfitted(output, plan, output.sizes() if plan.fits else {})
    return Lacking(tuple(planned.title for planned in fits), shards)


def deliver(
    output: Location,
    shards: Sequence[int],
    engines: Engines,
    find: Find | None = None,
    check: Callable[[], None] = lambda: None,
) -> None:
    """Explain some shards, and evaluate what is stored of them: the work of one worker."""
    explain_shards(output, shards, engines, find, check)
    evaluate_shards(output, shards, engines, check)


def complete(output: Location, engines: Engines, sources: Sources | None = None) -> Summary:
    """Do in this process what an output lacks of its plan.

    Parameters
    ----------
    sources
        Where the images lie; None: the cohort is surveyed once more, if any has to be read.
    """
    plan = Plan.read(output)
    find = sources or find_again(output, plan)
    lacking = begin(output, plan)
    if lacking.fits:
        plan = fit(output, find, engines)
    deliver(output, lacking.shards, engines, find)
    compute_results(output, engines)
    return finish(output)
