"""Images as the rows of a cohort table name them. Messages name rows, never what is in them."""

import logging
import math
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from posixpath import dirname
from typing import Literal, NamedTuple
from unicodedata import normalize

from models.errors import ConfigurationError
from models.records import RecordField, read_number
from tasks.cohort.config import CohortConfig
from tasks.cohort.datalist import SEPARATOR
from tasks.cohort.reading import Unreadable
from tasks.cohort.sequences import as_given, in_order, lacking
from tasks.cohort.sources import Files, Listed, Source, bids_subject, fence
from tasks.cohort.table import Row, read_table
from tasks.storage.location import Location

logger = logging.getLogger(__name__)

_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")


def images_of_table(config: CohortConfig) -> list[Listed]:
    """List the images that a cohort table names.

    Raises
    ------
    ConfigurationError
        If the table is not usable, names a file outside of the cohort's root, or an id twice.
    """
    columns = config.columns and config.columns.by_sequence(config.sequence_names)
    record = tuple(field.name for field in config.record)
    beside = (record, config.measures, config.covariates)
    table = read_table(config.source, columns, config.section, *beside)
    rows = [_split(config, row) for row in table]
    locate = _locator(config, rows)
    assigned = [_assigned(config, row) for row in rows]
    listed = [_listed(config, row, files, locate) for row, files in zip(rows, assigned, strict=True)]
    _check_ids(config.source, listed, rows)
    if moved := sum(map(_is_another_order, rows, assigned)):
        logger.warning(
            "cohort.sequences: %d images have their files in another order than the network's channels, as names tell: "
            "they are put in that order",
            moved,
        )
    return listed


def _split(config: CohortConfig, row: Row) -> Row:
    """Split a cell that names the files of several sequences."""
    if len(row.uris) > 1 or SEPARATOR not in (row.uris[0] or ""):
        return row
    if not config.sequence_names:
        raise ConfigurationError(
            f"cohort.source: the `uri` in row {row.number} of {config.source} names several files: name the sequences "
            "that they are in cohort.sequences, in the order of the network's channels"
        )
    uris = tuple(part.strip() or None for part in (row.uris[0] or "").split(SEPARATOR))
    if not any(uris):
        raise ConfigurationError(
            f"cohort.source: the `uri` in row {row.number} of {config.source} holds {SEPARATOR!r} and no file: "
            "name its files, or leave the row out"
        )
    return row._replace(uris=uris)


def _locator(config: CohortConfig, rows: Sequence[Row]) -> Callable[[str], str]:
    """Make the function that tells the URL of a file that a table names, and check that all lie below the root."""
    source, root, folder = config.source, config.home, dirname(config.source.url)
    lies_below = fence(root)
    stored = _as_stored(root, folder, [named for row in rows for named in (*row.uris, row.mask) if named], lies_below)

    def locate(named: str) -> str:
        return _resolve(stored.get(named, named), folder)

    for row in rows:
        for column, named in [*(("uri", uri) for uri in row.uris), ("mask", row.mask)]:
            if named and _WINDOWS.match(named):
                raise ConfigurationError(
                    f"cohort.source: the `{column}` in row {row.number} of {source} begins with a drive or server of "
                    "Windows: name files relative to the table, with / between folders"
                )
            if named and not lies_below(locate(named)):
                raise ConfigurationError(
                    f"cohort.source: the `{column}` in row {row.number} of {source} lies outside {root}, where the "
                    "images of this table must lie: move it there, or set cohort.root to a folder or prefix that holds "
                    "all"
                )
    return locate


class _Assigned(NamedTuple):
    """The file of each sequence, without a name where an image has one; and why they make no image, if that is told."""

    files: dict[str, str]
    refused: str | None = None


def _assigned(config: CohortConfig, row: Row) -> _Assigned:
    """Find the file of each sequence; they are numbered where that cannot be told."""
    named = [uri for uri in row.uris if uri]
    if not config.sequence_names:
        return _Assigned({"": named[0]})
    in_columns = config.columns is not None and len(config.columns.uris) > 1
    try:
        found = (as_given if in_columns else in_order)(row.uris, config.sequence_names)
    except Unreadable as reason:
        return _Assigned({str(place): file for place, file in enumerate(named)}, str(reason))
    return _Assigned(found, lacking(found, config.sequence_names) or _of_several(row))


def _of_several(row: Row) -> str | None:
    """Give the reason why files make no image if their names are of several subjects."""
    people = {subject for uri in row.uris if uri and (subject := bids_subject(uri.replace("\\", "/")))}
    if len(people) < 2 or row.subject:
        return None
    return (
        f"its files are of {len(people)} subjects, by their names (BIDS): name the files of each by themselves, or say "
        "whose image it is in the column `subject`"
    )


def _is_another_order(row: Row, assigned: _Assigned) -> bool:
    return assigned.refused is None and [*assigned.files.values()] != [uri for uri in row.uris if uri]


def _listed(config: CohortConfig, row: Row, assigned: _Assigned, locate: Callable[[str], str]) -> Listed:
    paths = [uri if "\\" in locate(uri) else uri.replace("\\", "/") for uri in row.uris if uri]
    places = {name: locate(uri) for name, uri in assigned.files.items()}
    below = {name: _below(config.home, url) for name, url in places.items()}
    parts = [Files(name, below[name] or (url,)) for name, url in places.items()]
    empty = [part.says("the folder is empty, or not there: check the table") for part in parts if not below[part.name]]
    mask = row.mask and locate(row.mask)
    source = Source.of(parts, mask, row.number) if config.sequence_names else Source(parts[0].uris, mask, row.number)
    refused = assigned.refused or next(iter(empty), None)
    try:
        source = source._replace(record=tuple(map(RecordField.number, config.record, row.record)))
    except ValueError as reason:
        refused = refused or str(reason)
    return Listed(
        name=row.id or SEPARATOR.join(path.strip("/") for path in paths),
        source=source,
        label=row.label and _mapped(row.label, config.label_map),
        subject=row.subject,
        covariates=tuple(cell or "" for cell in row.covariates),
        path=paths[0],
        refused=refused,
        measures=tuple(_measure(config, row, *named) for named in zip(config.measures, row.measures, strict=True)),
    )


def _measure(config: CohortConfig, row: Row, name: str, cell: str | None) -> float | None:
    value = None if cell is None else read_number(cell)
    if cell is not None and (value is None or math.isinf(value)):
        raise ConfigurationError(
            f"cohort.source: the {name!r} in row {row.number} of {config.source} is no number, as a measure has to be "
            "(cohort.measures): mend the cell, or leave it empty"
        )
    return value


def _below(root: Location, url: str) -> tuple[str, ...]:
    """List the files of a series' folder; a file is there alone."""
    return tuple(root.at(url).below()) if url.endswith("/") else (url,)


def _mapped(label: str, names: Mapping[str, str]) -> str:
    """Give a label the name of its class, or each of several; what has no other name stays as it is."""
    return names.get(label) or SEPARATOR.join(names.get(part, part) for part in label.split(SEPARATOR))


def _check_ids(source: Location, listed: Sequence[Listed], rows: Sequence[Row]) -> None:
    first: dict[str, int] = {}
    numbers = [(first.setdefault(image.name, row.number), row.number) for image, row in zip(listed, rows, strict=True)]
    if twice := [pair for pair in numbers if pair[0] != pair[1]]:
        raise ConfigurationError(
            f"cohort.source: {source} names {len({one for one, _ in twice})} ids more than once, such as in rows "
            f"{twice[0][0]} and {twice[0][1]}"
        )


def _as_stored(root: Location, folder: str, names: Iterable[str], lies_below: Callable[[str], bool]) -> dict[str, str]:
    """Find how names are spelt where the files lie: with / for \\, accents apart from their letters or not.

    Only of names that could be spelt otherwise, and only below the root. If there is no such file, its name has /.
    """
    doubtful = {name: _spellings(name) for name in names if not name.isascii() or "\\" in name}
    urls = {spelling: _resolve(spelling, folder) for spellings in doubtful.values() for spelling in spellings}
    there = _existing(root, set(filter(lies_below, urls.values()))) if urls else set()
    return {
        name: next((spelling for spelling in spellings if urls[spelling] in there), name.replace("\\", "/"))
        for name, spellings in doubtful.items()
    }


def _spellings(name: str) -> list[str]:
    found = [name, name.replace("\\", "/")]
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for folder, slash, own in [spelling.rpartition("/") for spelling in found]:
        found += [normalize(form, folder) + slash + normalize(other, own) for form in forms for other in forms]
    return list(dict.fromkeys(found))


def _existing(root: Location, urls: set[str]) -> set[str]:
    if root.is_local:
        return {url for url in urls if os.path.lexists(url)}
    folders = {url for url in urls if url.endswith("/") and root.at(url).exists()}
    return folders | root.stamps_of(url for url in urls if not url.endswith("/")).keys()


def _resolve(named: str, folder: str) -> str:
    """Make the URL of a file that a cohort table names; without dots, which some clients take for steps up."""
    url = named if "://" in named or named.startswith("/") else f"{folder}/{named}"
    if "://" in url:
        return url
    return os.path.abspath(url) + ("/" if url.endswith("/") else "")
