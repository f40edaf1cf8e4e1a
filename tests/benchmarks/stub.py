"""Workers that explain nothing: every map is zero, and all that surrounds the explaining is done.

Dask's workers load this module when they start (``distributed.worker.preload``).
"""

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np

from tests.faults.sabotage import AfterImport


def dask_setup(worker: Any) -> None:
    sys.meta_path.insert(0, AfterImport(install))


def install() -> None:
    """Let this process read no image and ask no network."""
    from tasks.cohort.reading import Unreadable
    from tasks.work import batches, explain

    def read_nothing(plan: Any, entries: Sequence[Any], *_: Any) -> Sequence[Any]:
        return [Unreadable("nothing is read")] * len(entries)

    def explain_nothing(*_: Any) -> dict[int, Any]:
        return {}

    def keep_zeros(plan: Any, delivery: explain.Delivery, batch: batches.ReadBatch, *_: Any) -> None:
        delivery.status[batch.rows] = explain.EXPLAINED
        for rows in delivery.parts.values():
            zeros = {name: np.zeros(one.shape, one.dtype) for name, one in rows.described.items() if name != "affine"}
            for row in batch.rows:
                rows.put(row, zeros)

    batches.read_images, explain._explain, explain._keep = read_nothing, explain_nothing, keep_zeros  # type: ignore[assignment]
