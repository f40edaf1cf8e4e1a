"""The manifest: one row an image, in the plan's order; and the plan itself, in the file's metadata.

Rows and plan are one file since two cannot be replaced at once: a run that is killed leaves the old ones or the new.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import SCHEMA, Entries, entries_of, packed
from tasks.storage.location import Location, Unavailable

NAME = "manifest.parquet"

_ANY_SIZE = {"thrift_string_size_limit": 2**31 - 1, "thrift_container_size_limit": 2**31 - 1}
"""Limits for a file's index: Arrow would write a plan of 100 MB, of some 20 million images, and refuse to read it."""

_SHARD = "rows per shard"

_MOST_GROUPS = 1024
"""Row groups of a file: each takes two kilobytes of its index, and thirty of the memory of everybody who reads it."""


def write(
    output: Location, entries: Sequence[Entry], rows_per_shard: int, metadata: Mapping[str, str] | None = None
) -> None:
    """Write the manifest, so that a worker reads little more than the rows of its own shards."""
    size = _rows_per_group(len(entries), rows_per_shard)
    # Least and greatest digests would be two thirds of the file's index, which every reader reads.
    options: dict[str, Any] = {"compression": "zstd", "write_statistics": False, "write_page_checksum": True}
    with (output / NAME).writing() as sink, pq.ParquetWriter(sink, SCHEMA, **options) as writer:
        for batch in packed(entries).batches(size):
            writer.write_batch(batch)
        writer.add_key_value_metadata({**(metadata or {}), _SHARD: str(rows_per_shard)})


def _rows_per_group(images: int, rows_per_shard: int) -> int:
    """Rows of a Parquet row group: one shard, or as many as let the index of the file stay small."""
    shards = -(-images // rows_per_shard)
    return rows_per_shard * max(1, -(-shards // _MOST_GROUPS))


def read(
    output: Location,
    shards: Sequence[int] | None = None,
    ids: Sequence[str] | None = None,
    *,
    sources: bool = True,
) -> list[Entry]:
    """Read all rows, or those of some shards, or those with some ids.

    Parameters
    ----------
    sources
        Whether entries come with their sources, which are half of the file, and needed only to plan and to write anew.
    """
    if shards is not None:
        return [entry for own in read_each(output, shards, sources=sources) for entry in own]
    with _opened(output) as parquet:
        found = []
        for batch in parquet.iter_batches(columns=_columns(sources)):
            rows = batch if ids is None else batch.filter(pc.is_in(batch.column("id"), pa.array(ids, pa.string())))
            found += entries_of(rows)
        return found


def read_each(output: Location, shards: Iterable[int], *, sources: bool = False) -> Iterator[list[Entry]]:
    """Read the rows of some shards, one shard after the other, with `sources` or without; the file is opened once."""
    for rows in _each(output, shards, _columns(sources)):
        yield [entry for batch in rows.to_batches() for entry in entries_of(batch)]


def read_ids(output: Location, shards: Iterable[int]) -> Iterator[list[str]]:
    """Read the ids of the images of some shards, one shard after the other."""
    for rows in _each(output, shards, ["id"]):
        yield rows["id"].to_pylist()


def _each(output: Location, shards: Iterable[int], columns: list[str]) -> Iterator[pa.Table]:
    with _opened(output) as parquet:
        told = parquet.metadata
        size = int(told.metadata[_SHARD.encode()])
        of_group = _rows_per_group(told.num_rows, size)
        for group, own in groupby(shards, lambda shard: shard * size // of_group):
            table = parquet.read_row_group(group, columns)
            yield from (table.slice(shard * size - group * of_group, size) for shard in own)


def load(output: Location, *, sources: bool = True) -> Entries:
    """Read all rows, with `sources` or without, and hold them packed."""
    with _opened(output) as parquet:
        groups = (parquet.read_row_group(group, _columns(sources)) for group in range(parquet.num_row_groups))
        return Entries.of(batch for group in groups for batch in _whole(group).to_batches())


def _whole(rows: pa.Table) -> pa.Table:
    """Give rows that were read without their sources none."""
    if "sources" in rows.column_names:
        return rows
    return rows.append_column(SCHEMA.field("sources"), pa.array([()] * len(rows), SCHEMA.field("sources").type))


@contextmanager
def _opened(output: Location) -> Iterator[pq.ParquetFile]:
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, **_ANY_SIZE)
        if not parquet.schema_arrow.equals(SCHEMA):
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


def _columns(sources: bool) -> list[str]:
    return SCHEMA.names if sources else [name for name in SCHEMA.names if name != "sources"]
