"""The command line: a module for each group of verbs. A verb imports what it needs, so that help does not wait."""

import click

from flows.cli.command import Commands
from flows.cli.evaluate import evaluate
from flows.cli.export import export
from flows.cli.ratings import ratings
from flows.cli.runs import demo, plan, run, schema
from flows.cli.train import train, train_autoencoder
from flows.cli.upkeep import status, verify, which, withdraw
from flows.cli.view import view


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: cohortlens demo")
@click.version_option(package_name="cohortlens")
def main() -> None:
    """Explain every image of a medical imaging cohort.

    A run reads a cohort, explains each image on Dask workers and writes one Zarr store and a page of pictures.

    Exit codes: 0 done; 1 images were quarantined or failed beyond the allowed share, or damage was found; 2 bad usage
    or configuration; 3 ended early: too much failed, or storage or workers went away; 4 a fault of cohortlens itself,
    with its traceback; 130 interrupted.
    """


for verb in (
    demo,
    evaluate,
    export,
    plan,
    ratings,
    run,
    schema,
    status,
    train,
    train_autoencoder,
    verify,
    view,
    which,
    withdraw,
):
    main.add_command(verb)
