"""Where the files of a cohort lie and what they are called. A run knows it; nothing of it is ever written down."""

import os
import re
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from io import BytesIO
from posixpath import basename, dirname
from typing import NamedTuple

import pandas as pd
from fsspec.utils import glob_translate

from models.errors import ConfigurationError
from tasks.storage.location import Location, nameless

_COLUMNS = ("uri", "id", "label", "mask", "subject")


class Source(NamedTuple):
    """The file of an image, or the files of its series; and its mask."""

    uris: tuple[str, ...]
    mask: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the image."""
        return self.uris if self.mask is None else (*self.uris, self.mask)


class Listed(NamedTuple):
    """An image as the cohort names it; `refused` says why its files make no image, if it is known."""

    name: str
    source: Source
    label: str | None = None
    subject: str | None = None
    refused: str | None = None


class Sources:
    """Where images lie, by id. It shows nothing of that when it is printed: Dask logs the arguments of what failed."""

    def __init__(self, places: Mapping[str, Source]) -> None:
        self._places = dict(places)

    def __repr__(self) -> str:
        return f"<sources of {len(self._places)} images>"

    def __call__(self, id: str) -> Source | None:
        return self._places.get(id)

    def of(self, ids: Iterable[str]) -> "Sources":
        """Keep the places of some images alone."""
        return Sources({id: self._places[id] for id in ids if id in self._places})


Find = Callable[[str], Source | None]
"""Tells where an image of some id lies; None if the cohort does not have it."""


def is_table(source: Location) -> bool:
    return source.url.endswith((".csv", ".parquet"))


def would_list(source: Location, file: Location) -> bool:
    """Tell whether a folder, glob or prefix lists a file, if it is there."""
    if is_table(source) or source.endpoint_url != file.endpoint_url:
        return False
    if source.path.rstrip("/") == source.folder:  # no glob
        return file.path.startswith(f"{source.folder}/")
    return re.match(glob_translate(source.path), file.path) is not None


def list_images(source: Location, root: Location) -> list[Listed]:
    """List a folder, glob or prefix, or the files that a cohort table names.

    Parameters
    ----------
    root
        Folder or prefix that all files of a cohort table lie below.

    Raises
    ------
    ConfigurationError
        If a cohort table is not usable.
    """
    if is_table(source):
        return _from_table(source, root)
    try:
        files = source.files()
    except FileNotFoundError as error:
        raise ConfigurationError(f"cohort.source: {error}") from None
    except OSError as error:
        server = f" at {source.endpoint_url}" if source.endpoint_url else ""
        raise nameless(error, f"cohort.source: {source}{server} cannot be listed") from None
    return [
        Listed((source.at(url).path.removeprefix(source.folder) or basename(url)).strip("/"), Source((url,)))
        for url in files
    ]


def _from_table(source: Location, root: Location) -> list[Listed]:
    """Messages name rows, never what is in them: it may be of a patient."""
    table = _read(source)
    unknown = [str(place + 1) for place, column in enumerate(table.columns) if column not in _COLUMNS]
    if "uri" not in table or unknown:
        raise ConfigurationError(
            f"cohort.source: {source} has "
            + " and ".join(
                ["no column `uri`"] * ("uri" not in table)
                + [f"columns that are not known (counted from the left: {', '.join(unknown)})"] * bool(unknown)
            )
            + ": its first line must name the columns; `uri` is needed, `id`, `label`, `mask` and `subject` are allowed"
        )
    folder = dirname(source.url)
    lies_below = _fence(root)
    listed = []
    for number, row in enumerate(table.astype(object).where(table.notna(), None).to_dict("records"), 1):
        if row["uri"] is None:
            raise ConfigurationError(f"cohort.source: row {number} of {source} has no `uri`")
        places: dict[str, str | None] = {}
        for column in ("uri", "mask"):
            named = row.get(column)
            places[column] = place = None if named is None else _resolve(str(named), folder)
            if place is not None and not lies_below(place):
                raise ConfigurationError(
                    f"cohort.source: the `{column}` in row {number} of {source} lies outside {root}, where the images "
                    "of this table must lie: move it there, or set cohort.root to a folder or prefix that holds all"
                )
        uri, mask = places["uri"], places["mask"]
        assert uri is not None
        is_folder = uri.endswith("/")
        series = tuple(root.at(uri).files()) if is_folder else ()
        text = {name: None if row.get(name) is None else str(row[name]) for name in ("id", "label", "subject")}
        listed.append(
            Listed(
                name=text["id"] or str(row["uri"]).strip("/"),
                source=Source(series or (uri,), mask),
                label=text["label"],
                subject=text["subject"],
                refused="the folder is empty, or not there: check the table"
                if uri.endswith("/") and not series
                else None,
            )
        )
    rows: dict[str, int] = {}
    repeated = [(rows.setdefault(image.name, number), number) for number, image in enumerate(listed, 1)]
    if twice := [pair for pair in repeated if pair[0] != pair[1]]:
        raise ConfigurationError(
            f"cohort.source: {source} names {len({first for first, _ in twice})} ids more than once, such as in rows "
            f"{twice[0][0]} and {twice[0][1]}"
        )
    return listed


def _read(source: Location) -> pd.DataFrame:
    try:
        data = BytesIO(source.read())
    except FileNotFoundError:
        raise ConfigurationError(f"cohort.source: there is no table {source}") from None
    try:
        if source.url.endswith(".csv"):
            return pd.read_csv(data, dtype=str, keep_default_na=False, na_values=[""])  # NA and None are labels too
        return pd.read_parquet(data)
    except Exception as error:  # what the readers of tables say may quote them
        raise ConfigurationError(
            f"cohort.source: {source} is no table that can be read ({type(error).__name__})"
        ) from None


def _resolve(named: str, folder: str) -> str:
    """Make the URL of a file that a cohort table names; without dots, which some clients take for steps up."""
    url = named if "://" in named or named.startswith("/") else f"{folder}/{named}"
    if "://" in url:
        return url
    return os.path.abspath(url) + ("/" if url.endswith("/") else "")


def _fence(root: Location) -> Callable[[str], bool]:
    """Tell of URLs whether what they name lies below a root, also if links lead elsewhere."""
    if not root.is_local:
        prefix = root.url.rstrip("/") + "/"
        return lambda url: url.startswith(prefix) and not {"", ".", ".."} & {*url[len(prefix) :].rstrip("/").split("/")}
    real_folder = cache(os.path.realpath)
    top = os.path.join(os.path.realpath(root.path), "")

    def lies_below(url: str) -> bool:
        folder, name = os.path.split(url)
        real = os.path.realpath(url) if os.path.islink(url) else os.path.join(real_folder(folder), name)
        return "://" not in url and real.startswith(top)

    return lies_below
