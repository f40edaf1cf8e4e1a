"""The verb that writes cases of an output in the formats of other tools."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from flows.cli.command import command
from flows.cli.options import ENDPOINT, load_config, location_of, output_at
from flows.cli.prefect import shown_in_prefect
from tasks.plain import plain

if TYPE_CHECKING:
    from flows.cluster import PlaceConfig
    from tasks.cohort.config import CohortConfig
    from tasks.export.export import Chosen, Exported
    from tasks.export.pacs import Pacs
    from tasks.storage.location import Location


_FORMATS = "nifti, ome-zarr, png, pdf, dicom-map, dicom-seg, dicom-sr; repeatable."


@command(epilog="Example: cohortlens export out/demo --format nifti --id 3f2a90c1d4e5b677")
@click.argument("output")
@click.option("--format", "formats", multiple=True, required=True, help=_FORMATS)
@click.option("--id", "ids", multiple=True, help="Only this image or subject, by its pseudonym; repeatable.")
@click.option("--explainer", "explainers", multiple=True, help="Only maps by it; repeatable. None: all, no controls.")
@click.option("--to", help="A folder or S3 prefix that cases go to; none: the folder exports of OUTPUT.")
@click.option("--threshold", default="5%", help="What dicom-seg marks: 5%, the strongest places; 0.25 and above.")
@click.option("--send", help="Send DICOM to dicom://AET@host:port, dicoms:// by TLS, or https:// of DICOMweb.")
@click.option("--workers", type=click.IntRange(1), help="Number of local workers; none: one a core, or one a GPU.")
@ENDPOINT
def export(
    output: str,
    formats: tuple[str, ...],
    ids: tuple[str, ...],
    explainers: tuple[str, ...],
    to: str | None,
    threshold: str,
    send: str | None,
    workers: int | None,
    endpoint_url: str | None,
) -> None:
    """Write cases of a finished OUTPUT in the formats of other tools, on the grids of their sources.

    OUTPUT may also be the configuration of the run, which says where its output and its cohort lie on this machine, and
    where the work is done. Images that are named by --id are exported by this process, a whole cohort on Dask workers.
    A case that is there whole, and was made of the same, is not made again.
    """
    config = load_config(Path(output)) if Path(output).is_file() else None
    place = config.output if config else location_of("OUTPUT", output, endpoint_url)
    cohort, folder = config.cohort if config else None, location_of("--to", to, endpoint_url) if to else None
    with output_at(place.url, place.endpoint_url):
        from tasks.export.export import check
        from tasks.export.export import export as export_here

        pacs = _checked(send, formats) if send else None
        if ids:
            chosen, done = export_here(place, formats, folder, ids, explainers, cohort, threshold)
        else:
            check(place, formats, folder, explainers, cohort, threshold)  # complains before a server is started
            from flows.cluster import PlaceConfig

            compute = config.compute if config and not workers else PlaceConfig(workers=workers)
            chosen, done = _by_flow(place, formats, folder, explainers, cohort, threshold, compute)
    click.echo(f"cases written {done.written}, there already {done.kept}")
    if chosen.left_out:
        click.echo(f"left out      {', '.join(f'{count} {what}' for what, count in chosen.left_out.items())}")
    for id, reason in done.failed.items():
        click.echo(f"{plain(id)}  {plain(reason)}", err=True)
    refused = pacs and folder and _sent(place, folder, formats, chosen, done, pacs)
    sys.exit(1 if done.failed or refused else 0)


def _checked(address: str, formats: tuple[str, ...]) -> "Pacs":
    from tasks.export.sending import check_sending

    return check_sending(address, formats)


def _sent(
    output: "Location", to: "Location", formats: tuple[str, ...], chosen: "Chosen", done: "Exported", pacs: "Pacs"
) -> bool:
    """Send what was exported, and tell whether the PACS has refused anything."""
    from tasks.export.sending import send

    sent = send(output, to, formats, chosen, done, pacs)
    click.echo(f"objects sent  {sent.taken}, to {pacs}")
    for (id, name), reason in sent.refused.items():
        click.echo(f"{plain(id)}  {plain(name)} is refused by the PACS: {reason}", err=True)
    return bool(sent.refused)


def _by_flow(
    output: "Location",
    formats: tuple[str, ...],
    to: "Location | None",
    explainers: tuple[str, ...],
    cohort: "CohortConfig | None",
    threshold: str,
    compute: "PlaceConfig",
) -> "tuple[Chosen, Exported]":
    from flows.server import prefect_server

    with prefect_server() as server_url:
        from flows.export import export_cohort

        with shown_in_prefect(server_url(), output):
            return export_cohort(output, formats, to, (), explainers, cohort, threshold, compute)
