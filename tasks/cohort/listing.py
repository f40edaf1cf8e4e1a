"""List the images of a cohort: the files of a folder, glob or prefix, or what a cohort table names."""

import os
import re
from collections.abc import Iterator, Sequence
from glob import escape
from posixpath import basename

from fsspec.utils import glob_translate

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.packed import Packed
from tasks.cohort.rows import images_of_table
from tasks.cohort.sequences import grouped
from tasks.cohort.sources import Listed, Source
from tasks.cohort.table import is_table
from tasks.storage.location import Location, nameless

_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")


def would_list(source: Location, file: Location) -> bool:
    """Tell whether a folder, glob or prefix lists a file, if it is there, with any step of it taken for a name."""
    if is_table(source) or source.endpoint_url != file.endpoint_url:
        return False
    steps = source.path.rstrip("/").split("/")
    patterns = [[*map(escape, steps[:names]), *(steps[names:] or ["**"])] for names in range(len(steps) + 1)]
    return any(re.match(glob_translate("/".join(pattern)), file.path) for pattern in patterns)


def list_images(config: CohortConfig) -> Sequence[Listed]:
    """List a folder, glob or prefix, or the files that a cohort table names.

    Raises
    ------
    ConfigurationError
        If a cohort table is not usable, or no file is of a sequence.
    """
    if is_table(config.source):
        return images_of_table(config)
    listed = Packed(_files_of(config.source))
    return grouped(listed, config.sequences) if config.sequences and listed else listed


def _files_of(source: Location) -> Iterator[Listed]:
    if source.url.lower().endswith(_WORKBOOKS):
        raise ConfigurationError(f"cohort.source: {source} is a workbook: save its sheet as CSV (UTF-8), and name that")
    try:
        folder, files = source.folder, source.files()
    except FileNotFoundError as error:
        raise ConfigurationError(f"cohort.source: {error}") from None
    except OSError as error:
        server = f" at {source.endpoint_url}" if source.endpoint_url else ""
        raise nameless(error, f"cohort.source: {source}{server} cannot be listed") from None
    if f"{folder}/" in files:
        raise ConfigurationError(f"cohort.source: {source} cannot be listed: give access to it, or name another place")
    for url in _once_each(files) if source.is_local else files:
        path = (source.at(url).path.removeprefix(folder) or basename(url)).strip("/")
        yield Listed(_written(path), Source((url,)), path=path)


def _once_each(files: Sequence[str]) -> list[str]:
    """Leave out links to files that are there under their own names, and all but the first of several to another."""
    links = {file for file in files if os.path.islink(file)}
    seen = {os.path.realpath(file) for file in files if file not in links} if links else set()
    kept = []
    for file in files:
        real = os.path.realpath(file) if file in links else ""
        if real not in seen:
            kept.append(file)
            seen |= {real} - {""}
    return kept


def _written(path: str) -> str:
    """Make a text of a name that is not UTF-8, in which the bytes that are not come as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")
