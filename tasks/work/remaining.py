"""The work that remains for a shard: which of its parts, and which of their rows cannot be taken from the store."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.prediction import LOGIT
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard, digest_rows
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.objects import part_pieces, read


@dataclass(frozen=True)
class Kept:
    """Rows of a part that are stored already: which, and by key the objects that hold them."""

    rows: NDArray[np.bool_]
    objects: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class Remaining:
    """A shard, and what of it remains to be delivered.

    Attributes
    ----------
    rows
        Digest of each row.
    commit
        What was delivered of it before, of whatever rows.
    parts
        By number of a part that is to be written: what of it is kept.
    decided
        ``(row,)`` whether the row's status stands, since its prediction is stored.
    """

    shard: Shard
    entries: Sequence[Entry]
    rows: tuple[str, ...]
    commit: Commit | None
    parts: dict[int, Kept]
    decided: NDArray[np.bool_]

    @property
    def unchanged(self) -> bool:
        """True if all rows are as they were delivered before."""
        return self.commit is not None and self.commit.rows == self.rows

    def wanted(self, part: int, number: int) -> list[int]:
        """The rows of a batch that are to be computed for a part."""
        delivering, kept = self.shard.delivering, self.parts[part].rows
        return [
            row
            for row in self.shard.batches[number]
            if delivering[row] == number and not kept[row] and not self.entries[row].withdrawn
        ]

    def batches(self) -> Iterator[int]:
        """The batches that any part needs."""
        for number in range(len(self.shard.batches)):
            if any(self.wanted(part, number) for part in self.parts):
                yield number


def remaining(output: Location, plan: Plan, shard: Shard, entries: Sequence[Entry], commit: Commit | None) -> Remaining:
    """Find out what is to be done for a shard; what of it is stored is read where it has to be written again."""
    rows = shard.rows(entries)
    if digest_rows(rows) != shard.digest:
        raise OSError(f"{output / manifest.NAME} is damaged: shard {shard.index} does not hold the planned images")
    parts = {}
    for part in range(len(plan.parts)):
        if commit is None or not commit.delivers(plan, part):
            parts[part] = Kept(np.zeros(len(rows), bool))
        elif commit.rows != rows:
            objects = read(output, part_pieces(plan, shard, part), commit.parts[part].objects)
            same = np.array([before == now for before, now in zip(_padded(commit.rows, len(rows)), rows, strict=True)])
            parts[part] = Kept(np.zeros(len(rows), bool)) if objects is None else Kept(same, objects)
    predicting = plan.part_with(LOGIT)
    decided = parts[predicting].rows if predicting in parts else np.ones(len(rows), bool)
    return Remaining(shard, entries, rows, commit, parts, decided)


def _padded(rows: Sequence[str], count: int) -> list[str]:
    return [*rows, *[""] * (count - len(rows))]
