"""Cuts of the rows of a cohort into shards, batches and objects."""

import hashlib
import json
import math
from collections.abc import Collection, Sequence
from itertools import accumulate, pairwise
from typing import Any

from pydantic import BaseModel, ConfigDict

from tasks.cohort.entry import Entry

OBJECT_LIMIT = 64 * 2**20
"""Largest object in bytes before compression: below s3fs's multipart limit (100 MiB) a PUT is atomic."""

_LARGEST_SHARD, _SMALLEST_SHARD = 256, 16


class Shard(BaseModel):
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

    model_config = ConfigDict(frozen=True, extra="forbid")

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

    def rows(self, entries: Sequence[Entry]) -> tuple[str, ...]:
        """Digest all that decides each row, given the shard's entries."""
        batches = {row: self.batches[number] for row, number in self.delivering.items()}
        return tuple(
            digest_of([entry.id, entry.digest, entry.mask, batches.get(row)])[:16] for row, entry in enumerate(entries)
        )


def cut(
    entries: Sequence[Entry],
    size: int,
    batch_size: int,
    before: Sequence[Shard] = (),
    again: Collection[int] = frozenset(),
) -> tuple[Shard, ...]:
    """Cut the rows into shards of `size`, and their images into batches.

    Parameters
    ----------
    before
        The shards that an earlier plan cut from the first of these rows: their batches stay.
    again
        Rows of them that are to be explained again, in batches of their own.
    """
    shards = []
    for index, start in enumerate(range(0, len(entries), size)):
        own = entries[start : start + size]
        old = before[index] if index < len(before) else None
        known = old.images if old else 0
        fresh = [row for row, entry in enumerate(own) if entry.digest and (row >= known or start + row in again)]
        added = tuple(tuple(fresh[first : first + batch_size]) for first in range(0, len(fresh), batch_size))
        batches = (*(old.batches if old else ()), *added)
        shard = Shard(index=index, start=start, stop=start + len(own), digest="", batches=batches)
        shards.append(shard.model_copy(update={"digest": digest_rows(shard.rows(own))}))
    return tuple(shards)


def digest_rows(rows: Sequence[str]) -> str:
    """Make a shard's digest from its rows'."""
    return digest_of(list(rows))


def images_per_shard(images: int, image_bytes: int) -> int:
    """Images in a shard: some 16 shards in a small cohort, and no object over the limit where that can be had."""
    fitting = min(_LARGEST_SHARD, OBJECT_LIMIT // image_bytes)
    size = min(fitting, max(_SMALLEST_SHARD, images // 16))
    return max(1, size - size % _SMALLEST_SHARD if size > _SMALLEST_SHARD else size)


def object_rows(shape: Sequence[int], itemsize: int = 4) -> tuple[int, ...]:
    """Cut ``(image, *rest)`` of one shard so that an object stays under the limit; the last two axes stay whole."""
    cut = list(shape)
    for axis in range(1, len(cut) - 2):
        rest = math.prod(cut) * itemsize // cut[axis]
        cut[axis] = max(1, min(cut[axis], OBJECT_LIMIT // rest)) if rest * cut[axis] > OBJECT_LIMIT else cut[axis]
    return tuple(cut)


def groups(shards: Sequence[int], workers: int) -> list[Sequence[int]]:
    """Deal shards out in runs of neighbours: some eight a worker, and never more than 256."""
    if not shards:
        return []
    count = min(len(shards), max(workers, min(8 * workers, 256)))
    sizes = [len(shards) // count + (number < len(shards) % count) for number in range(count)]
    return [shards[start:stop] for start, stop in pairwise([0, *accumulate(sizes)])]


def digest_of(promised: Any) -> str:
    """SHA-256 of anything that JSON holds."""
    return hashlib.sha256(json.dumps(promised, sort_keys=True).encode()).hexdigest()
