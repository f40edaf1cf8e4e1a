"""Cuts of the rows of a cohort into shards, batches and objects."""

import hashlib
import json
import math
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate, islice, pairwise
from json.encoder import encode_basestring_ascii
from typing import Any, overload

from pydantic import ConfigDict
from pydantic.dataclasses import dataclass as validated

from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import packed

OBJECT_LIMIT = 64 * 2**20
"""Largest object in bytes before compression: below s3fs's multipart limit (100 MiB) a PUT is atomic."""

SHARD_LIMIT = 256 * 2**20
"""Largest maps of a shard in bytes before compression, all explainers together: a worker holds them encoded."""

_LARGEST_SHARD, _SMALLEST_SHARD = 1024, 16
_FEW_SHARDS, _MANY_SHARDS = 16, 128
_ENOUGH = 256
"""Images of a shard where there are fewer than `_MANY_SHARDS`."""


@dataclass(frozen=True)
class Shard:
    """The rows ``start`` to ``stop - 1`` of every array.

    Attributes
    ----------
    digest
        Over the shard's images and batches.
    batches
        Rows, counted from `start`, whose images are put to the network together: arithmetic is a little different
        in batches of another size. Batches are only ever added. A row that several name is delivered by the last of
        them, and keeps its place in the others for the sake of their other rows.
    """

    index: int
    start: int
    stop: int
    digest: str
    batches: tuple[tuple[int, ...], ...]

    @property
    def images(self) -> int:
        return self.stop - self.start

    @property
    def delivering(self) -> dict[int, int]:
        """The number of the batch that delivers each row; without the rows that hold no image."""
        return {row: number for number, batch in enumerate(self.batches) for row in batch}

    def rows(self, entries: Iterable[Entry]) -> tuple[str, ...]:
        """Digest all that decides each row, given the shard's entries."""
        return _digests_of_rows(((entry.id, entry.digest, entry.mask) for entry in entries), self.batches)


@validated(frozen=True, config=ConfigDict(extra="forbid"))
class Shards(Sequence[Shard]):
    """The shards of a cohort, each made when it is asked for: what can be reckoned is not held, and not written.

    Attributes
    ----------
    images
        All rows.
    size
        Rows of a shard; the last may have fewer.
    at_once
        Images of a batch.
    digests
        That of each shard.
    stretches
        By number of a shard, the rows that were put into batches together, such as ``0-7,9-99;100-255``: first those of
        the first plan, then those that each later plan added. A shard that is not named has ``0-255``, all its rows.
    """

    images: int
    size: int
    at_once: int
    digests: tuple[str, ...]
    stretches: dict[int, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.digests)

    @overload
    def __getitem__(self, index: int) -> Shard: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Shard, ...]: ...

    def __getitem__(self, index: int | slice) -> Shard | tuple[Shard, ...]:
        if isinstance(index, slice):
            return tuple(self[one] for one in range(len(self))[index])
        index = range(len(self))[index]
        start = index * self.size
        batches = _batches(self.stretches_of(index), self.at_once)
        return Shard(index, start, min(start + self.size, self.images), self.digests[index], batches)

    def stretches_of(self, index: int) -> str:
        """Give the stretches of a shard, whether it is named among them or has all its rows."""
        return self.stretches.get(index, f"0-{min(self.size, self.images - index * self.size) - 1}")

    def digested(self, entries: Sequence[Entry], indices: Iterable[int]) -> "Shards":
        """Digest some shards anew, whose rows are of other entries now."""
        found = list(self.digests)
        for index in indices:
            shard = self[index]
            found[index] = digest_rows(shard.rows(entries[shard.start : shard.stop]))
        return replace(self, digests=tuple(found))


def cut(
    entries: Iterable[Entry],
    size: int,
    batch_size: int,
    before: Shards | None = None,
    again: Collection[int] = frozenset(),
) -> Shards:
    """Cut the rows into shards of `size`, and their images into batches.

    Parameters
    ----------
    before
        The shards that an earlier plan cut from the first of these rows: their batches stay.
    again
        Rows of them that are to be explained again, in batches of their own.
    """
    deciding = iter(packed(entries).columns("id", "digest", "mask"))
    digests: list[str] = []
    stretches: dict[int, str] = {}
    images = 0
    while own := list(islice(deciding, size)):
        index, known = len(digests), 0
        old = []
        if before and index < len(before):
            known, old = before[index].images, [before.stretches_of(index)]
        fresh = [row for row, (_, digest, _) in enumerate(own) if digest and (row >= known or images + row in again)]
        told = ";".join(filter(None, [*old, _told(fresh)]))
        if told != f"0-{len(own) - 1}":
            stretches[index] = told
        digests.append(digest_rows(_digests_of_rows(own, _batches(told, batch_size))))
        images += len(own)
    return Shards(images=images, size=size, at_once=batch_size, digests=tuple(digests), stretches=stretches)


def _told(rows: Sequence[int]) -> str:
    """Write rows, which ascend, as ``0-7,9-99``."""
    begins = [place for place, row in enumerate(rows) if not place or row != rows[place - 1] + 1]
    return ",".join(f"{rows[begin]}-{rows[end - 1]}" for begin, end in pairwise([*begins, len(rows)]))


@lru_cache
def _batches(stretches: str, at_once: int) -> tuple[tuple[int, ...], ...]:
    """Cut each stretch of rows into batches."""
    found: list[tuple[int, ...]] = []
    for stretch in filter(None, stretches.split(";")):
        ends = (map(int, part.split("-")) for part in stretch.split(","))
        rows = [row for first, last in ends for row in range(first, last + 1)]
        found += (tuple(rows[begin : begin + at_once]) for begin in range(0, len(rows), at_once))
    return tuple(found)


def _digests_of_rows(
    deciding: Iterable[tuple[str, str | None, str | None]], batches: Sequence[tuple[int, ...]]
) -> tuple[str, ...]:
    """Digest each row's id, digests of image and mask, and the batch that delivers the row."""
    of_batch = {row: text for batch in batches for text in [json.dumps(batch)] for row in batch}
    texts = (
        f"[{_json(id)}, {_json(image)}, {_json(mask)}, {of_batch.get(row, 'null')}]"
        for row, (id, image, mask) in enumerate(deciding)
    )
    return tuple(hashlib.sha256(text.encode()).hexdigest()[:16] for text in texts)


def _json(text: str | None) -> str:
    """Write what `json.dumps` does, which takes ten times as long to begin."""
    return "null" if text is None else encode_basestring_ascii(text)


def digest_rows(rows: Sequence[str]) -> str:
    """Make a shard's digest from its rows'."""
    return digest_of(list(rows))


def images_per_shard(images: int, image_bytes: int, object_bytes: int) -> int:
    """Choose the number of images in a shard.

    A small cohort has some 16 shards. In a large one, objects grow up to the limit as long as there are 128 shards, so
    that workers end together and one that is killed loses less than a hundredth of the work; in between, a shard has
    256 images, or as many as have maps of 64 MiB.

    Parameters
    ----------
    image_bytes
        The maps of an image.
    object_bytes
        Those of one explainer.
    """
    few = min(_ENOUGH, OBJECT_LIMIT // image_bytes, max(_SMALLEST_SHARD, images // _FEW_SHARDS))
    many = min(OBJECT_LIMIT // object_bytes, SHARD_LIMIT // image_bytes, images // _MANY_SHARDS)
    size = min(_LARGEST_SHARD, max(few, many))
    return max(1, size - size % _SMALLEST_SHARD if size > _SMALLEST_SHARD else size)


def object_rows(shape: Sequence[int], itemsize: int = 4) -> tuple[int, ...]:
    """Cut ``(image, *rest)`` of one shard so that an object stays under the limit; the last two axes stay whole."""
    cut = list(shape)
    for axis in range(1, len(cut) - 2):
        rest = math.prod(cut) * itemsize // cut[axis]
        cut[axis] = max(1, min(cut[axis], OBJECT_LIMIT // rest)) if rest * cut[axis] > OBJECT_LIMIT else cut[axis]
    return tuple(cut)


def groups(shards: Sequence[int], workers: int) -> list[Sequence[int]]:
    """Deal shards out in runs of neighbours: some four a worker, and never more than 256.

    The last are smaller and smaller, so that workers which take one after the other end together.
    """
    largest, smallest = len(shards) // min(4 * workers, 128), math.ceil(len(shards) / 1024)
    sizes: list[int] = []
    left = len(shards)
    while left:
        wanted = min(largest, left // min(2 * workers, 32))
        sizes.append(min(left, max(smallest, wanted)))
        left -= sizes[-1]
    return [shards[start:stop] for start, stop in pairwise([0, *accumulate(sizes)])]


def digest_of(promised: Any) -> str:
    """SHA-256 of anything that JSON holds."""
    return hashlib.sha256(json.dumps(promised, sort_keys=True).encode()).hexdigest()
