"""Cohorts as results see them, in memory."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.outputs import Frame


@dataclass(frozen=True)
class Cohort:
    """A cohort as a result sees it, in memory, in shards of 64 or another number of images."""

    frame: Frame
    ids: Sequence[str]
    labels: Sequence[str]
    subjects: Sequence[str]
    explained: NDArray[np.bool_]
    arrays: dict[str, NDArray[Any]]
    measures: dict[str, NDArray[np.float64]] = field(default_factory=dict)
    shard: int = 64
    concepts: Sequence[str] = ()

    def blocks(self, *read: str) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        for start in range(0, len(self.ids), self.shard):
            rows = slice(start, min(start + self.shard, len(self.ids)))
            yield rows, {name: self.arrays[name][rows] for name in read}

    def taken(self, rows: NDArray[Any]) -> "Cohort":
        parts = {name: [getattr(self, name)[row] for row in rows] for name in ("ids", "labels", "subjects")}
        arrays = {name: values[rows] for name, values in self.arrays.items()}
        measures = {name: values[rows] for name, values in self.measures.items()}
        return replace(self, **parts, explained=self.explained[rows], arrays=arrays, measures=measures)
