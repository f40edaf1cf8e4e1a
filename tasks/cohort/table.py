"""Read a cohort table: Parquet, JSON, or text as people's programs write it.

Messages name rows, never what is in them.
"""

import csv
import logging
import math
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator
from datetime import time
from io import BytesIO, StringIO
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from models.errors import ConfigurationError
from tasks.cohort.columns import Columns, Places, Wanted, folded
from tasks.cohort.datalist import Record, Unusable, read_datalist
from tasks.storage.location import Location

logger = logging.getLogger(__name__)

DATALIST = ".json"
SUFFIXES = (".csv", ".tsv", ".parquet", DATALIST)

_SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}
_BYTE_ORDER_MARKS = {
    b"\xef\xbb\xbf": "utf-8-sig",
    b"\xff\xfe\x00\x00": "utf-32",
    b"\x00\x00\xfe\xff": "utf-32",
    b"\xff\xfe": "utf-16",
    b"\xfe\xff": "utf-16",
}
_EXACT = {16: 2**11, 32: 2**24, 64: 2**53}
"""By their bits, the whole number above which floating-point numbers do not tell all whole ones apart."""

_MISSING = {"na", "n/a", "#n/a", "<na>", "nan", "null", "none", "unknown", "-"}
"""Words, in lower case, by which programs and people write that a cell is empty."""

_WHOLE = re.compile(r"-?\d+\.0")


class Row(NamedTuple):
    """A row of a table, without blanks around its texts; None where a cell is empty.

    Attributes
    ----------
    number
        Its place below the line that names the columns, counted from 1; blank rows count.
    uris
        The files in its columns of files, of which one at least is named.
    record, measures, covariates
        The cells in the columns of its record, in those of its measures, and of its covariates.
    """

    number: int
    uris: tuple[str | None, ...]
    id: str | None = None
    label: str | None = None
    mask: str | None = None
    subject: str | None = None
    record: tuple[str | None, ...] = ()
    measures: tuple[str | None, ...] = ()
    covariates: tuple[str | None, ...] = ()


def is_table(source: Location) -> bool:
    """Tell by its name whether a source is a cohort table."""
    return source.url.lower().endswith(SUFFIXES)


def is_datalist(source: Location) -> bool:
    """Tell by its name whether a source is a cohort table in JSON."""
    return source.url.lower().endswith(DATALIST)


def read_table(
    source: Location,
    columns: Columns | None = None,
    section: str = "",
    record: tuple[str, ...] = (),
    measures: tuple[str, ...] = (),
    covariates: tuple[str, ...] = (),
) -> list[Row]:
    """Read the rows of a cohort table, without the blank ones.

    Numbers are text as people write them: whole ones without a point, also where a column has gaps.

    Parameters
    ----------
    columns
        How its columns are called, and that there may be others; None: by their own names, and no others.
    section
        Which of a datalist's lists is read; empty: the only one.
    record, measures, covariates
        The columns that the network takes beside the image, those of measures, and those that are stored as words.

    Raises
    ------
    ConfigurationError
        If it is not there, or cannot be read as a table with the columns that are needed.
    """
    try:
        data = source.read()
    except FileNotFoundError:
        raise ConfigurationError(f"cohort.source: there is no table {source}") from None
    except IsADirectoryError:
        raise ConfigurationError(f"cohort.source: {source} is a folder: end it with / to take its files") from None
    beside = {"record": record, "measures": measures, "covariates": covariates}
    wanted = Wanted.of(columns, in_datalist=is_datalist(source), **beside)
    try:
        if source.url.lower().endswith(".parquet"):
            names, records, read_as = *_parquet(data, wanted.reads), ""
        elif is_datalist(source):
            names, records, read_as = *read_datalist(data, section, wanted.uris[0], wanted.reads), ""
        else:
            names, records, read_as = _text(source, data, wanted)
        rows = _whole(list(_rows(source, wanted.places(names, read_as), records)))
        _check_subjects(source, rows)
        return rows
    except ConfigurationError:
        raise
    except Unusable as error:
        raise ConfigurationError(f"cohort.source: {source} {error}") from None
    except Exception as error:  # what the readers of tables say may quote them
        raise ConfigurationError(
            f"cohort.source: {source} is no table that can be read ({type(error).__name__})"
        ) from None


def _rows(source: Location, columns: Places, records: Iterable[Record]) -> Iterator[Row]:
    for number, cells in records:
        texts = [None if cell is None else cell.strip() or None for cell in cells]
        if not any(texts):
            continue
        counted = "" if is_datalist(source) else ", counted below the names of the columns,"
        row = f"cohort.source: row {number} of {source}{counted}"
        if places := [place + 1 for place, text in enumerate(texts) if text and place not in columns.named]:
            raise ConfigurationError(
                f"{row} has a cell in column {places[0]}, which has no name: name the column or leave it out (pandas: "
                "index=False), or put a text that holds the separator in quotes"
            )
        groups = (columns.uris, columns.record, columns.measures, columns.covariates)
        uris, record, measures, covariates = (
            tuple(texts[place] if place < len(texts) else None for place in group) for group in groups
        )
        values = {name: texts[place] if place < len(texts) else None for name, place in columns.others.items()}
        if not any(uris):
            raise ConfigurationError(f"{row} has no `uri`: name its file, or leave it out")
        if any("\0" in text for text in (*uris, *values.values(), *covariates) if text):
            raise ConfigurationError(
                f"{row} has a NUL character, which no name and no text holds: write the table anew"
            )
        for name in ("label", "subject"):
            if text := values.get(name):
                values[name] = unicodedata.normalize("NFC", text)  # macOS takes letters and their accents apart
        covariates = tuple(text and unicodedata.normalize("NFC", text) for text in covariates)
        yield Row(number, uris, **values, record=record, measures=measures, covariates=covariates)


def _whole(rows: list[Row]) -> list[Row]:
    """Write whole numbers as such also in text: pandas writes a column of them that has gaps as one of fractions."""
    for name in ("id", "label", "subject"):
        there = [text for row in rows if (text := getattr(row, name)) is not None]
        if 0 < len(there) < len(rows) and all(map(_WHOLE.fullmatch, there)):
            rows = [row._replace(**{name: (text := getattr(row, name)) and text.removesuffix(".0")}) for row in rows]
    return rows


def _check_subjects(source: Location, rows: list[Row]) -> None:
    """Check that images of unknown subjects do not become those of one."""
    unknown = [row.number for row in rows if row.subject and row.subject.lower() in _MISSING]
    if len(unknown) > 1:
        raise ConfigurationError(
            f"cohort.source: the `subject` in {len(unknown)} rows of {source}, such as rows {unknown[0]} and "
            f"{unknown[1]}, is a word for an empty cell ({', '.join(sorted(_MISSING))}), which would make their images "
            "those of one subject: leave these cells empty, and each is a subject of its own"
        )


def _text(source: Location, data: bytes, wanted: Wanted) -> tuple[list[str], Iterator[Record], str]:
    """Give the names of the columns, the rows, and how the file was read."""
    text, encoding = _decode(source, data)
    declared = re.match(r"sep=(.)\r?\n", text)  # Excel's own line
    text = text[declared.end() :] if declared else text
    lines = StringIO(text, newline=None)
    header = next((line for line in lines if line.strip()), "")
    separator = declared[1] if declared else _separator(header, wanted)
    read_as = f" (it was read as {encoding}, with {_SEPARATORS.get(separator, 'its own separator')} between columns)"
    names = next(_cells([header], separator), [])
    return names, enumerate(_cells(lines, separator), 1), read_as


def _cells(lines: Iterable[str], separator: str) -> Iterator[list[str]]:
    read = 0
    try:
        for cells in csv.reader(lines, delimiter=separator, strict=True):
            yield cells
            read += 1
    except csv.Error:
        raise Unusable(
            f"cannot be read from row {read + 1} on, counted below the names of the columns: a quote is not closed, "
            "or stands in the middle of a cell, or a cell is longer than 128 KiB"
        ) from None


def _separator(header: str, wanted: Wanted) -> str:
    """Choose the separator that makes most names of columns."""

    def known(separator: str) -> int:
        try:
            (names,) = csv.reader([header], delimiter=separator)
        except (csv.Error, ValueError):
            return 0
        return len({folded(name) for name in names} & wanted.known)

    return max(_SEPARATORS, key=known)


def _decode(source: Location, data: bytes) -> tuple[str, str]:
    """Decode by the byte order mark; without one as UTF-8, and as cp1252 if it cannot be that."""
    encoding = next((name for mark, name in _BYTE_ORDER_MARKS.items() if data.startswith(mark)), None)
    if encoding is None and 0 in data[:2]:
        encoding = "utf-16-be" if data[0] == 0 else "utf-16-le"
    if encoding is not None:
        name = encoding.upper().removesuffix("-SIG")
        try:
            return data.decode(encoding), name
        except UnicodeDecodeError as error:
            raise Unusable(f"begins as {name} and is not ({_place(data, error)}): save it as UTF-8") from None
    try:
        return data.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError as error:
        place = _place(data, error)
    try:
        text = data.decode("cp1252")
    except UnicodeDecodeError as error:
        raise Unusable(f"is neither UTF-8 nor cp1252 ({_place(data, error)}): save it as UTF-8") from None
    if not data.decode("utf-8", "ignore").isascii():
        raise Unusable(f"is UTF-8 but for some bytes ({place}): mend them, or save it as UTF-8")
    logger.warning(
        "cohort.source: %s is not UTF-8 (%s) and is read as cp1252, which older Windows programs write: if names or "
        "labels are not found, save it as UTF-8",
        source,
        place,
    )
    return text, "cp1252"


def _place(data: bytes, error: UnicodeDecodeError) -> str:
    return f"line {data.count(10, 0, error.start) + 1}, byte 0x{data[error.start]:02x}"


def _parquet(data: bytes, reads: Callable[[str], bool]) -> tuple[list[str], Iterator[Record]]:
    table = pq.read_table(BytesIO(data))
    kept = [name for name in table.column_names if not re.fullmatch(r"__index_level_\d+__", name)]  # pandas' own
    nothing: list[str | None] = [None] * len(table)
    columns = [_texts(table.column(table.column_names.index(name)), name) if reads(name) else nothing for name in kept]
    return kept, ((number, cells) for number, cells in enumerate(zip(*columns, strict=True), 1))


def _texts(column: pa.ChunkedArray, name: str) -> list[str | None]:
    """Write a column's values as people write them."""
    if types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    kind, values = column.type, column.to_pylist()
    if types.is_floating(kind) or types.is_decimal(kind):
        numbers = [None if value is None or math.isnan(value) else value for value in values]
        return _numbers(numbers, name, math.inf if types.is_decimal(kind) else _EXACT[kind.bit_width])
    if types.is_timestamp(kind):
        days = all(value is None or value.time() == time() for value in values)
        return [value and (value.date() if days else value).isoformat() for value in values]
    if types.is_date(kind) or types.is_time(kind):
        return [value and value.isoformat() for value in values]
    if types.is_binary(kind) or types.is_large_binary(kind):
        return [value and value.decode() for value in values]
    if types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind) or types.is_null(kind):
        return values
    if types.is_integer(kind) or types.is_boolean(kind):
        return [None if value is None else str(value) for value in values]
    raise Unusable(f"holds {kind} in the column `{name}`, where each row has one text or number")


def _numbers(values: list[Any], name: str, exact: float) -> list[str | None]:
    """Write whole numbers as such: a column of them that has gaps is one of fractions to pandas."""
    there = [value for value in values if value is not None]
    if not all(math.isfinite(value) and value == int(value) for value in there):
        return [None if value is None else str(value) for value in values]
    if any(abs(value) > exact for value in there):
        raise Unusable(
            f"holds whole numbers above {exact} as fractions in the column `{name}`, which lose their last digits so: "
            'write the column as text, or as "Int64" of pandas'
        )
    return [None if value is None else str(int(value)) for value in values]
