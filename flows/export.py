"""The flow that writes cases of a finished output in the formats of other tools, on Dask workers."""

import time
from collections.abc import Callable, Sequence
from typing import Annotated, Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.artifacts import server_may_be_away
from flows.cluster import PlaceConfig, expected_workers
from flows.config import described
from flows.errors import Stopped
from flows.logs import told_to_prefect
from flows.progress import bar
from flows.shards import check_cancelled, check_lease, results_of, workers
from tasks.cohort.config import CohortConfig
from tasks.cohort.sources import Sources
from tasks.export.export import Chosen, Export, Exported, choose, draw_up, export_rows, find_sources
from tasks.export.folders import held, home, sweep
from tasks.plan import manifest
from tasks.plan.shards import groups
from tasks.storage.lease import Lease, guard
from tasks.storage.location import Location

_LOCAL = PlaceConfig()
_SHOWN = 200
_POLL_SECONDS = 1.0
_UPDATE_SECONDS = 5.0


@flow(name="export-cohort", validate_parameters=True, persist_result=False)
def export_cohort(
    output: Annotated[Location, described("The folder or S3 prefix of a finished output")],
    formats: Annotated[tuple[str, ...], described("Names of formats, such as nifti")],
    to: Annotated[Location | None, described("Where the cases go; none: the folder exports of the output")] = None,
    ids: Annotated[tuple[str, ...], described("Images or subjects, by their pseudonyms; none: all")] = (),
    explainers: Annotated[tuple[str, ...], described("Whose maps are exported; none: all but the controls")] = (),
    cohort: Annotated[
        CohortConfig | None, described("The cohort as it is found here; none: where the output says")
    ] = None,
    threshold: Annotated[str, described("What segmentations mark: 5%, the strongest places; or 0.25 and above")] = "5%",
    compute: Annotated[PlaceConfig, described("Where the work is done")] = _LOCAL,
) -> tuple[Chosen, Exported]:
    """Write cases in the formats of other tools; those that are there whole, and made of the same, are left alone."""
    try:
        with held(output, to, str(flow_run.get_id())) as lease:
            export, chosen, sources = _draw_up(output, formats, to, ids, explainers, cohort, threshold)
            done = _exported(export, chosen, sources, compute, lease) if chosen.rows else Exported()
    except OSError as error:
        raise Stopped(f"{error}. What is exported stays: mend this, and export again to go on") from error
    with server_may_be_away():
        _publish(chosen, done)
    return chosen, done


@task(name="draw up", cache_policy=NO_CACHE, persist_result=False)
def _draw_up(
    output: Location,
    formats: Sequence[str],
    to: Location | None,
    ids: Sequence[str],
    explainers: Sequence[str],
    cohort: CohortConfig | None,
    threshold: str,
) -> tuple[Export, Chosen, Sources]:
    export = draw_up(output, formats, to, explainers, cohort, threshold)
    chosen = choose(export, ids)
    sweep(export.to, export.formats)
    return export, chosen, find_sources(export, ids) if chosen.rows else Sources({})


def _exported(export: Export, chosen: Chosen, sources: Sources, compute: PlaceConfig, lease: Lease) -> Exported:
    """Deal the images out to workers, and wait for what becomes of them."""
    ids = [entry.id for entry in manifest.read(export.output, sources=False)]
    with workers(export.output, compute) as runner:
        exporting = [
            runner.submit(
                _export.with_options(task_run_name=f"export {len(rows)} images"),
                parameters={
                    "export": export,
                    "rows": rows,
                    "sources": sources.of(ids[row] for row in rows),
                    "lease_number": lease.number,
                },
            )
            for rows in groups(chosen.rows, expected_workers(compute))
        ]
        return sum(results_of(exporting, _Watch(exporting, lease, home(export.output, export.to))), Exported())


@task(name="export", cache_policy=NO_CACHE, persist_result=False)
def _export(export: Export, rows: Sequence[int], sources: Sources, lease_number: int) -> Exported:
    with told_to_prefect():
        return export_rows(export, rows, sources, guard(home(export.output, export.to), lease_number))


class _Watch:
    """Shows how many groups of images are exported."""

    def __init__(self, futures: Sequence[Any], lease: Lease, place: Location) -> None:
        self._futures, self._lease, self._place = futures, lease, place

    def until(self, done: Callable[[], bool]) -> None:
        """Wait for the work, and raise `Occupied` if the lease is another's, or `CalledOff` if nobody wants it."""
        last = time.monotonic()
        with bar("groups exported", "groups") as progress:
            while not done():
                progress(sum(future.wrapped_future.done() for future in self._futures), len(self._futures))
                check_lease(self._lease, self._place)
                if time.monotonic() - last > _UPDATE_SECONDS:
                    last = time.monotonic()
                    with server_may_be_away():
                        check_cancelled()
                time.sleep(_POLL_SECONDS)
            progress(len(self._futures), len(self._futures))


def _publish(chosen: Chosen, done: Exported) -> None:
    """Show what became of the images."""
    counts = {"cases written": done.written, "cases there already": done.kept, "images failed": len(done.failed)}
    counts |= {f"images left out: {what}": count for what, count in chosen.left_out.items()}
    rows = [{"": name, "value": str(count)} for name, count in counts.items()]
    rows += [{"": id, "value": reason} for id, reason in list(done.failed.items())[:_SHOWN]]
    create_table_artifact(table=rows, key="export", description="What became of the images")
