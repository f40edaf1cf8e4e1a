"""Options that several commands have, and the outputs and configurations that their arguments name."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from flows.config import RunConfig
    from tasks.cohort.selection import Selection
    from tasks.storage.location import Location

CONFIG = click.argument("config", type=click.Path(exists=True, dir_okay=False, path_type=Path))
_TIME = click.DateTime()

MARKER = click.option("--marker", is_flag=True, help="Burn a letter into a corner of all images with a lesion.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
ENDPOINT = click.option("--endpoint-url", help="The S3 server of OUTPUT, if it is not Amazon's.")


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how its CONFIG is run: extend, overwrite, and only which images."""

    @functools.wraps(command)
    def with_selection(**options: Any) -> None:
        named = {name: options.pop(name) for name in ("ids", "modality", "modified_after", "modified_before")}

        def only() -> "Selection":
            from flows.config import make_selection  # which imports for seconds: a command may start processes first

            return make_selection(**named)

        command(**options, only=only)

    for option in (
        click.option("--modified-before", type=_TIME, help="Only files stored before this time (UTC)."),
        click.option("--modified-after", type=_TIME, help="Only files stored at this time (UTC) or later."),
        click.option("--modality", multiple=True, help="Only images of this DICOM modality, such as CT; repeatable."),
        click.option("--id", "ids", multiple=True, help="Only this image or subject, by its pseudonym; repeatable."),
        click.option("--overwrite", is_flag=True, help="Delete a run that is there first."),
        click.option("--extend", is_flag=True, help="Add explainers to a run that is there; compute just those."),
    ):
        with_selection = option(with_selection)
    return with_selection


def load_config(path: Path) -> "RunConfig":
    """Read a configuration, without what reads it before it is needed."""
    from flows.config import load

    return load(path)


@contextmanager
def output_at(url: str, endpoint_url: str | None) -> Iterator["Location"]:
    """Take the output that a user names; what the body does not find there, is told as a run that is not there."""
    location = location_of("OUTPUT", url, endpoint_url)
    try:
        yield location
    except FileNotFoundError as error:
        missing = error.filename or error
        raise click.UsageError(f"there is no run at {url}: no {missing}; `cohortlens run` makes it") from error


def location_of(what: str, url: str, endpoint_url: str | None) -> "Location":
    """Take a URL that a user gives for `what`."""
    from pydantic import ValidationError

    from tasks.storage.location import Location

    try:
        return Location(url=url, endpoint_url=endpoint_url)
    except ValidationError as error:
        raise click.UsageError(f"{what}: {error.errors()[0]['msg']}") from error


@contextmanager
def temporary_home() -> Iterator[Path]:
    """Make a folder for what libraries write, and delete it afterwards."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
