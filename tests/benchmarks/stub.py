"""Workers that explain nothing: every map is zero, and all that surrounds the explaining is done.

Dask's workers load this module when they start (``distributed.worker.preload``).
"""

import sys
from collections.abc import Sequence
from typing import Any

from tests.faults.sabotage import AfterImport


def dask_setup(worker: Any) -> None:
    sys.meta_path.insert(0, AfterImport(install))


def install() -> None:
    """Let this process read no image and ask no network."""
    from tasks import shard

    def read_nothing(plan: Any, entries: Sequence[Any], *_: Any) -> Sequence[Any]:
        return (None,) * len(entries)

    def explain_nothing(delivery: shard.Delivery, batch: shard.Batch, number: int, engines: Any) -> None:
        rows = list(batch.work.shard.batches[number])
        delivery.status[rows] = shard.EXPLAINED
        for block in delivery.blocks.values():
            for name in block.keys() - {"affine"}:
                block[name][rows] = 0

    shard.read_images, shard._explain = read_nothing, explain_nothing  # type: ignore[assignment]
