"""The built page, as the package carries it, and its copy in an output."""

import logging
from importlib.resources import files

from tasks.storage.location import Location

FOLDER = "viewer"

logger = logging.getLogger("cohortlens")


def page_files() -> dict[str, bytes]:
    """Read the files of the built page, by name; none in a checkout that has not built it."""
    page = files("tasks.viewer").joinpath("page")
    return {file.name: file.read_bytes() for file in page.iterdir()} if page.is_dir() else {}


def write_page(output: Location) -> None:
    """Put the page into an output, and take away what another version of the page left there."""
    page = page_files()
    if not page:
        logger.warning("the page of the viewer is not built, and not in the output: `make viewer` builds it")
        return
    folder = output / FOLDER
    there = folder.sizes()
    for name, data in page.items():
        is_same = output.is_local and there.get(name) == len(data) and (folder / name).read() == data
        if not is_same:  # an object may have the bytes, and not the media type
            (folder / name).write(data)
    for name in there.keys() - page.keys():
        if name.endswith((".js", ".css", ".html", ".txt")):
            (folder / name).remove()
