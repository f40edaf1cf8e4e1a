"""The manifest: one row an image, in the plan's order."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from io import BytesIO

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.storage import Location

NAME = "manifest.parquet"

_SCHEMA = pa.schema(
    [
        ("id", pa.string()),
        ("uris", pa.list_(pa.string())),
        ("digest", pa.string()),
        ("format", pa.string()),
        ("label", pa.string()),
        ("mask", pa.string()),
        ("reason", pa.string()),
    ]
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One image of the cohort.

    Attributes
    ----------
    id
        Stable name of the image, unique in the cohort.
    uris
        Its file, or the files of its series.
    digest
        SHA-256 of its bytes; of the files' digests, in the order of `uris`, for a series.
    reason
        Why it is quarantined or failed; None if it is neither.
    """

    id: str
    uris: tuple[str, ...]
    digest: str | None = None
    format: str | None = None
    label: str | None = None
    mask: str | None = None
    reason: str | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the image: its own, and its mask."""
        return self.uris if self.mask is None else (*self.uris, self.mask)

    def quarantined(self, reason: str) -> "Entry":
        return replace(self, reason=reason)


def write(output: Location, entries: Iterable[Entry], rows_per_group: int) -> None:
    """Write the manifest with one Parquet row group a shard, so that a worker reads only its own."""
    table = pa.Table.from_pylist([asdict(entry) for entry in entries], schema=_SCHEMA)
    sink = BytesIO()
    pq.write_table(table, sink, row_group_size=rows_per_group)
    (output / NAME).write(sink.getvalue())


def read(output: Location, groups: Sequence[int] | None = None, ids: Sequence[str] | None = None) -> list[Entry]:
    """Read all rows, or those of some row groups (shards), or those with some ids."""
    location = output / NAME
    with location.filesystem.open(location.path, "rb") as file:
        parquet = pq.ParquetFile(file)
        table = parquet.read() if groups is None else parquet.read_row_groups(list(groups))
    if ids is not None:
        table = table.filter(pc.field("id").isin(pa.array(ids, pa.string())))
    return [Entry(**{**row, "uris": tuple(row["uris"])}) for row in table.to_pylist()]
