"""The verb that folds in what readers think of a finished output."""

import click

from flows.cli.command import command
from flows.cli.options import ENDPOINT, JSON, location_of, output_at
from flows.cli.printing import json_of, print_ratings


@command(epilog="Example: cohortlens ratings out/demo --import ~/Downloads")
@click.argument("output")
@click.option("--import", "folder", help="Bring ratings in first, from a folder or prefix of downloaded ones.")
@JSON
@ENDPOINT
def ratings(output: str, folder: str | None, as_json: bool, endpoint_url: str | None) -> None:
    """Sum up the ratings of OUTPUT: agreement of readers, preferred explainers, metrics against drawn regions.

    Writes ratings/summary.json and tables beside it, and the report anew; the store stays as it is.
    """
    from tasks.plan import manifest
    from tasks.ratings.importing import bring_in
    from tasks.ratings.summary import fold_in
    from tasks.report import write_report
    from tasks.storage.lease import lease
    from tasks.work.finish import summarise

    with output_at(output, endpoint_url) as location:
        finished = not summarise(location).pending
        brought = None
        with lease(location, "ratings"):
            if folder is not None:
                source = location_of("--import", folder, endpoint_url)
                brought = bring_in(location, source, manifest.read(location, sources=False))
            summary = fold_in(location)
            if finished:
                write_report(location)
    if as_json:
        click.echo(json_of({"imported": brought, "summary": summary}))
    else:
        print_ratings(summary, brought)
