"""The images of a cohort in their order, held as compressed blocks of columns: those that the manifest has."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, groupby, islice, pairwise, repeat
from operator import attrgetter
from typing import Any, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyarrow import types

from tasks.cohort.entry import FIELDS, Entry, Fact, Source
from tasks.cohort.packed import PackedMapping

_FACT = pa.struct(
    [(name, pa.string()) for name in ("file", "stamp", "digest", "format", "series", "modality")]
    + [(name, pa.int64()) for name in ("size", "decoded")]
    + [(name, pa.string()) for name in ("patient", "issuer")]
    + [("frames", pa.int64()), ("orientation", pa.list_(pa.float64()))]
    + [(name, pa.int64()) for name in ("pictures", "volumes")]
)
_SOURCE = pa.struct([*((name, pa.string()) for name in ("name", "kind", "digest")), ("files", pa.list_(_FACT))])
SCHEMA = pa.schema(
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

_BLOCK = 512
"""Images of a block: of fewer, Arrow's own overhead shows; of more, one that is asked for by itself takes longer."""

AT_ONCE = 2**15
"""Images that are unpacked at once where they are compared, or taken out of order: some 16 MB."""

_ZSTD = "zstd", 1


class Entries(Sequence[Entry]):
    """The images of a cohort in their order, in some hundred bytes each. It stays as it was made."""

    def __init__(self, entries: Iterable[Entry] = ()) -> None:
        left = iter(entries)
        self._hold(map(batch_of, iter(lambda: list(islice(left, _BLOCK)), [])))

    @classmethod
    def of(cls, batches: Iterable[pa.RecordBatch]) -> "Entries":
        """Hold batches of columns, one after the other."""
        made = cls()
        made._hold(batches)
        return made

    def _hold(self, batches: Iterable[pa.RecordBatch]) -> None:
        self._blocks: list[tuple[int, bytes]] = []
        self._count = 0
        for batch in _recut(batches, _BLOCK):
            data = batch.serialize()
            # Together, since digests of an image are those of its source and of its file.
            self._blocks.append((data.size, pa.Codec(*_ZSTD).compress(data, asbytes=True)))
            self._count += len(batch)
        self._at_hand: tuple[int, pa.RecordBatch] | None = None

    def _block(self, number: int) -> pa.RecordBatch:
        size, data = self._blocks[number]
        return pa.ipc.read_record_batch(pa.Codec(*_ZSTD).decompress(data, size), SCHEMA)

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Entry]:
        for batch in self._all():
            yield from entries_of(batch)

    @overload
    def __getitem__(self, place: int) -> Entry: ...

    @overload
    def __getitem__(self, place: slice) -> list[Entry]: ...

    def __getitem__(self, place: int | slice) -> Entry | list[Entry]:
        if isinstance(place, slice):
            return [entry for rows in self._stretch(range(self._count)[place]) for entry in entries_of(rows)]
        number, within = divmod(range(self._count)[place], _BLOCK)
        at_hand = self._at_hand  # of several threads, each takes one look
        if at_hand is None or at_hand[0] != number:
            at_hand = self._at_hand = number, self._block(number)
        return entries_of(at_hand[1].slice(within, 1))[0]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Sequence) or len(self) != len(other):
            return False
        if isinstance(other, Entries):
            return all(map(pa.RecordBatch.equals, self._all(), other._all()))
        return all(own == its for own, its in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def _stretch(self, places: range) -> Iterator[pa.RecordBatch]:
        """Go through the images at places that are evenly spread."""
        for number, own in groupby(places, lambda place: place // _BLOCK):
            yield self._block(number).take(pa.array(place % _BLOCK for place in own))

    def _all(self) -> Iterator[pa.RecordBatch]:
        return map(self._block, range(len(self._blocks)))

    def batches(self, size: int) -> Iterator[pa.RecordBatch]:
        """Go through all images in batches of `size`, the last of which may have fewer."""
        return _recut(self._all(), size)

    def take(self, places: NDArray[np.int64]) -> Iterator[pa.RecordBatch]:
        """Go through the images at some places, in the order of these, in batches of `AT_ONCE`.

        They are dealt out to their batches in one pass, and packed once more until it is their turn: in whichever
        order they are asked for, each block is unpacked once.
        """
        order = np.argsort(places, kind="stable")
        bounds = np.searchsorted(places[order], np.arange(0, len(self) + AT_ONCE, AT_ONCE))
        hands: list[list[tuple[NDArray[np.int64], Entries]]] = [[] for _ in range(0, len(places), AT_ONCE)]
        for begin, stop, batch in zip(bounds, bounds[1:], self.batches(AT_ONCE), strict=False):
            turns = order[begin:stop]
            for number in np.unique(turns // AT_ONCE).tolist():
                own = turns[turns // AT_ONCE == number]
                hands[number].append((own, Entries.of([batch.take(pa.array(places[own] % AT_ONCE))])))
        for number in range(len(hands)):
            hand, hands[number] = hands[number], []
            turns = np.concatenate([own for own, _ in hand])
            found = pa.concat_batches([batch for _, entries in hand for batch in entries._all()])
            yield found.take(pa.array(np.argsort(turns)))

    def columns(self, *names: str) -> Iterator[Any]:
        """Go through a field of all images, or through several, which takes a fraction of making the entries."""
        for batch in self._all():
            found = [_values(batch.column(name)) for name in names]
            yield from zip(*found, strict=True) if len(names) > 1 else found[0]

    def places(self, others: "Entries") -> NDArray[np.int64]:
        """Find the place of each of other images by its id; -1 where it is not among these."""
        found = pc.index_in(others._ids(), value_set=self._ids())
        return np.asarray(found.fill_null(-1).to_numpy(), np.int64)

    def _ids(self) -> pa.ChunkedArray:
        """Collect all ids, which may have more than 2 GiB."""
        ids = (batch.select(["id"]) for batch in self._all())
        copied = [batch.column(0).cast(pa.large_string()) for batch in _recut(ids, AT_ONCE)]
        return pa.chunked_array(copied, pa.large_string())


def packed(entries: Iterable[Entry]) -> Entries:
    """Pack entries, if they are not."""
    return entries if isinstance(entries, Entries) else Entries(entries)


def known_files(entries: Iterable[Entry]) -> Mapping[str, Fact]:
    """Collect what is known of files, by their pseudonyms."""
    of_images = packed(entries).columns("sources")
    return PackedMapping((fact.file, fact) for sources in of_images for source in sources for fact in source.files)


def batch_of(entries: Sequence[Entry]) -> pa.RecordBatch:
    """Make columns of entries."""
    rows = map(attrgetter(*SCHEMA.names), entries)
    columns = zip(zip(*rows, strict=True), SCHEMA.types, strict=True)
    return pa.RecordBatch.from_arrays([_array(column, kind) for column, kind in columns], schema=SCHEMA)


def with_columns(batch: pa.RecordBatch, **columns: pa.Array) -> pa.RecordBatch:
    """Put other columns in the place of those of the same names."""
    arrays = [columns.get(name, array) for name, array in zip(batch.schema.names, batch.columns, strict=True)]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def flags(array: pa.BooleanArray) -> NDArray[np.bool_]:
    """Make an array of numpy of one without nulls."""
    found: NDArray[np.bool_] = array.to_numpy(zero_copy_only=False)
    return found


def entries_of(batch: pa.RecordBatch) -> list[Entry]:
    """Make entries of columns, among which the sources may not be."""
    columns = {name: _values(batch.column(name)) for name in batch.schema.names}
    return list(map(Entry, *(columns.get(name, repeat((), len(batch))) for name in FIELDS)))


def _array(values: Sequence[Any], kind: pa.DataType) -> pa.Array:
    """Make an array of Python's values, column by column, which takes a fifth of Arrow's own way with tuples."""
    if types.is_struct(kind):
        columns = zip(*values, strict=True) if values else [()] * kind.num_fields
        arrays = [_array(column, field.type) for column, field in zip(columns, kind, strict=True)]
        return pa.StructArray.from_arrays(arrays, fields=list(kind))
    if types.is_list(kind):
        ends = pa.array(accumulate(map(len, values), initial=0), pa.int32())
        return pa.ListArray.from_arrays(ends, _array(list(chain.from_iterable(values)), kind.value_type))
    return pa.array(values, kind)


def _values(array: pa.Array) -> list[Any]:
    """Make Python's values of an array, column by column: Arrow's own way makes a dictionary of each struct."""
    if types.is_struct(array.type):
        return list(map(Fact if array.type == _FACT else Source, *map(_values, array.flatten())))
    if types.is_list(array.type):
        values, ends = _values(array.flatten()), accumulate(pc.list_value_length(array).to_pylist(), initial=0)
        return [tuple(values[begin:end]) for begin, end in pairwise(ends)]
    found: list[Any] = array.to_pylist()
    return found


def _recut(batches: Iterable[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    """Copy batches into others of `size`, the last of which may have fewer."""
    held: list[pa.RecordBatch] = []
    lacking = size
    for batch in batches:
        left = batch
        while len(left) >= lacking:
            yield pa.concat_batches([*held, left.slice(0, lacking)])
            held, left, lacking = [], left.slice(lacking), size
        if len(left):
            held.append(left)
            lacking -= len(left)
    if held:
        yield pa.concat_batches(held)
