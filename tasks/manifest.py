"""The manifest: one row an image, in the plan's order; and the plan itself, in the file's metadata.

Rows and plan are one file since two cannot be replaced at once: a run that is killed leaves the old ones or the new.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from io import BytesIO
from itertools import islice
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.storage import Location

NAME = "manifest.parquet"

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
        (
            "facts",
            pa.list_(
                pa.struct(
                    [(name, pa.string()) for name in ("file", "stamp", "digest", "format", "series", "modality")]
                    + [(name, pa.int64()) for name in ("size", "decoded")]
                )
            ),
        ),
    ]
)

_ANY_SIZE = {"thrift_string_size_limit": 2**31 - 1, "thrift_container_size_limit": 2**31 - 1}
"""Of a file's index: Arrow would write a plan of 100 MB, that of some 20 million images, and refuse to read it."""

_WITHOUT_FACTS = [name for name in _SCHEMA.names if name != "facts"]


class Fact(NamedTuple):
    """What is known of a file without reading it again, as long as it has the same stamp: size, and time or ETag.

    Attributes
    ----------
    file, series
        Pseudonyms of its URI, and of the series it belongs to if it says so.
    modality
        As DICOM names it, such as "CT"; empty where it is none that DICOM defines.
    size, decoded
        Bytes of the file, and of its pixels as float32.
    """

    file: str
    stamp: str
    digest: str
    format: str
    series: str
    modality: str
    size: int
    decoded: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the cohort. Where it lies is not said: see `tasks.sources`.

    Attributes
    ----------
    id
        Stable name of the image, unique in the cohort.
    digest
        SHA-256 of its bytes; of the files' digests, in their order, for a series.
    mask
        SHA-256 of its mask's bytes.
    reason
        Why it is quarantined or failed; None if it is neither.
    subject
        Whose image it is; None: the image stands for itself.
    present
        Whether its source was there at the last run.
    withdrawn
        Whether its subject was withdrawn: nothing of it is left but the row.
    facts
        Of its files, and of its mask.
    """

    id: str
    digest: str | None = None
    format: str | None = None
    label: str | None = None
    mask: str | None = None
    reason: str | None = None
    subject: str | None = None
    present: bool = True
    withdrawn: bool = False
    facts: tuple[Fact, ...] = ()

    def quarantined(self, reason: str) -> "Entry":
        return replace(self, reason=reason)


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
    facts: bool = True,
) -> list[Entry]:
    """Read all rows, or those of some row groups (shards), or those with some ids.

    Parameters
    ----------
    facts
        Whether entries come with their facts, which are half of them, and needed only to plan and to write anew.
    """
    with _opened(output) as parquet:
        chosen = list(range(parquet.num_row_groups) if groups is None else groups)
        columns = None if facts else _WITHOUT_FACTS
        found = []
        for batch in parquet.iter_batches(row_groups=chosen, columns=columns) if chosen else ():
            rows = batch if ids is None else batch.filter(pc.is_in(batch.column("id"), pa.array(ids, pa.string())))
            found += [_entry(row) for row in rows.to_pylist()]
        return found


def read_each(output: Location, groups: Iterable[int]) -> Iterator[list[Entry]]:
    """Read the rows of some row groups (shards), without facts, one group after the other; the file is opened once."""
    with _opened(output) as parquet:
        for group in groups:
            yield [_entry(row) for row in parquet.read_row_group(group, _WITHOUT_FACTS).to_pylist()]


@contextmanager
def _opened(output: Location) -> Iterator[pq.ParquetFile]:
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        parquet = pq.ParquetFile(file, page_checksum_verification=True, **_ANY_SIZE)
        if not parquet.schema_arrow.equals(_SCHEMA):
            raise ValueError(f"{location} does not have the columns of a manifest: damaged")
        yield parquet


def read_metadata(output: Location) -> dict[str, str]:
    """Read what `write` was told to keep beside the rows.

    Raises
    ------
    FileNotFoundError
        If there is no manifest.
    """
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        found = pq.ParquetFile(file, **_ANY_SIZE).metadata.metadata or {}
    return {name.decode(): value.decode() for name, value in found.items()}


def _row(entry: Entry) -> dict[str, Any]:
    row = {field.name: getattr(entry, field.name) for field in fields(entry)}
    return row | {"facts": [fact._asdict() for fact in entry.facts]}


def _entry(row: dict[str, Any]) -> Entry:
    facts = tuple(Fact(**fact) for fact in row.pop("facts", ()))
    return Entry(**row | {"facts": facts})


def known_files(entries: Iterable[Entry]) -> dict[str, Fact]:
    """What is known of files, by their pseudonyms."""
    return {fact.file: fact for entry in entries for fact in entry.facts}
