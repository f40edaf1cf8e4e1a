"""The manifest: one row an image, in the plan's order; and the plan itself, in the file's metadata.

Rows and plan are one file since two cannot be replaced at once: a run that is killed leaves the old ones or the new.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields
from io import BytesIO
from itertools import islice
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry, Fact, Source
from tasks.storage.location import Location, Unavailable

NAME = "manifest.parquet"

_FACT = pa.struct(
    [(name, pa.string()) for name in ("file", "stamp", "digest", "format", "series", "modality")]
    + [(name, pa.int64()) for name in ("size", "decoded")]
    + [(name, pa.string()) for name in ("patient", "issuer")]
    + [("frames", pa.int64()), ("orientation", pa.list_(pa.float64()))]
    + [(name, pa.int64()) for name in ("pictures", "volumes")]
)
_SOURCE = pa.struct([*((name, pa.string()) for name in ("name", "kind", "digest")), ("files", pa.list_(_FACT))])
_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("digest", pa.string()),
        ("format", pa.string()),
        ("label", pa.string()),
        ("mask", pa.string()),
        ("reason", pa.string()),
        ("subject", pa.string()),
        ("present", pa.bool_()),
        ("withdrawn", pa.bool_()),
        ("frame", pa.int64()),
        ("measures", pa.list_(pa.float64())),
        ("covariates", pa.list_(pa.string())),
        ("sources", pa.list_(_SOURCE)),
    ]
)

_ANY_SIZE = {"thrift_string_size_limit": 2**31 - 1, "thrift_container_size_limit": 2**31 - 1}
"""Limits for a file's index: Arrow would write a plan of 100 MB, of some 20 million images, and refuse to read it."""

_WITHOUT_SOURCES = [name for name in _SCHEMA.names if name != "sources"]


def write(
    output: Location, entries: Iterable[Entry], rows_per_group: int, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the manifest with one Parquet row group a shard, so that a worker reads only its own."""
    sink, left = BytesIO(), iter(entries)
    # Least and greatest digests would be two thirds of the file's index, which every reader reads.
    with pq.ParquetWriter(
        sink, _SCHEMA, compression="zstd", write_statistics=False, write_page_checksum=True
    ) as writer:
        while group := list(islice(left, rows_per_group)):
            writer.write_table(pa.Table.from_pylist([_row(entry) for entry in group], schema=_SCHEMA))
        writer.add_key_value_metadata(dict(metadata or {}))
    (output / NAME).write(sink.getvalue())


def read(
    output: Location,
    groups: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    *,
    sources: bool = True,
) -> list[Entry]:
    """Read all rows, or those of some row groups (shards), or those with some ids.

    Parameters
    ----------
    sources
        Whether entries come with their sources, which are half of the file, and needed only to plan and to write anew.
    """
    with _opened(output) as parquet:
        chosen = list(range(parquet.num_row_groups) if groups is None else groups)
        columns = None if sources else _WITHOUT_SOURCES
        found = []
        for batch in parquet.iter_batches(row_groups=chosen, columns=columns) if chosen else ():
            rows = batch if ids is None else batch.filter(pc.is_in(batch.column("id"), pa.array(ids, pa.string())))
            found += [_entry(row) for row in rows.to_pylist()]
        return found


def read_each(output: Location, groups: Iterable[int], *, sources: bool = False) -> Iterator[list[Entry]]:
    """Read the rows of some shards, one shard after the other, with `sources` or without; the file is opened once."""
    columns = None if sources else _WITHOUT_SOURCES
    with _opened(output) as parquet:
        for group in groups:
            yield [_entry(row) for row in parquet.read_row_group(group, columns).to_pylist()]


@contextmanager
def _opened(output: Location) -> Iterator[pq.ParquetFile]:
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, **_ANY_SIZE)
        if not parquet.schema_arrow.equals(_SCHEMA):
            raise ConfigurationError(f"{location} does not have the columns of a manifest: damaged")
        yield parquet


def read_metadata(output: Location) -> dict[str, str]:
    """Read what `write` was told to keep beside the rows.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    ConfigurationError
        If the manifest is damaged.
    """
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        try:
            found = pq.ParquetFile(file, **_ANY_SIZE).metadata.metadata or {}
        except (pa.ArrowException, OSError) as error:
            if isinstance(error, Unavailable):
                raise
            raise ConfigurationError(
                f"{location} is damaged ({type(error).__name__}): put it back from a copy, name another output, or put "
                "this one out of the way with --overwrite"
            ) from error
    return {name.decode(): value.decode() for name, value in found.items()}


def _row(entry: Entry) -> dict[str, Any]:
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    sources = [source._asdict() | {"files": [fact._asdict() for fact in source.files]} for source in entry.sources]
    return row | {"sources": sources}


def _entry(row: dict[str, Any]) -> Entry:
    sources = (Source(**source | {"files": tuple(map(_fact, source["files"]))}) for source in row.pop("sources", ()))
    beside = {name: tuple(row[name]) for name in ("measures", "covariates")}
    return Entry(**row | beside | {"sources": tuple(sources)})


def _fact(fact: dict[str, Any]) -> Fact:
    return Fact(**fact | {"orientation": tuple(fact["orientation"])})
