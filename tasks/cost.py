"""What a plan will cost, before anything runs."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from models.engine import Engine
from tasks.manifest import Entry
from tasks.plan import Plan, object_rows
from tasks.variables import variables

_DECODING = 8
"""What an image takes while it is read, in multiples of its pixels as float32: a file of float64 voxels is held as
stored and as scaled, both twice as large, then as float32 twice, and twice in a transform."""


@dataclass(frozen=True)
class Cost:
    """What a run will take.

    Attributes
    ----------
    bytes_stored
        Before compression.
    memory_per_worker
        Bytes; the memory of this process after one batch, with a worker's buffers and the largest image decoded.
    hours
        For all workers together at the pace of one batch, timed in this process.
    """

    images: int
    forward_passes: int
    backward_passes: int
    bytes_stored: int
    objects: int
    workers: int
    memory_per_worker: int
    hours: float


def estimate(
    plan: Plan, entries: Sequence[Entry], engine: Engine, *, workers: int, threads: int, memory_limit: int | None
) -> Cost:
    """Time one batch and count the rest.

    Parameters
    ----------
    threads
        Threads that a worker computes with.
    memory_limit
        A worker's memory in bytes; None if it is not known.

    Raises
    ------
    ValueError
        If a worker's memory would not hold its shards.
    """
    described = variables(plan)
    image_bytes = sum(math.prod(v.shape) * np.dtype(v.dtype).itemsize for v in described.values())
    forward, backward, seconds = _probe(plan, engine, threads)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # A block that is filled, one that is written with its encoded copy, and four batches in three versions.
    input_bytes = math.prod(plan.model.input_shape) * plan.model.channels * 4
    files, decoding = _reading(plan, entries)
    memory = peak + 3 * image_bytes * plan.images_per_shard + 12 * input_bytes * plan.batch_size + files + decoding
    if memory_limit and memory > memory_limit:
        raise ValueError(
            f"a worker would need {_gib(memory)} (one batch of {plan.batch_size} images: {_gib(peak)}; "
            f"three shards of {plan.images_per_shard} images: {_gib(3 * image_bytes * plan.images_per_shard)}; "
            f"the files of a batch: {_gib(files)}; the largest image while it is decoded: {_gib(decoding)}), "
            f"but it may use {_gib(memory_limit)}: use fewer workers, raise compute.memory_per_worker, or lower "
            "compute.batch_size or cohort.largest_image"
        )
    objects = sum(
        math.prod(-(-a // b) for a, b in zip(v.shape, object_rows((1, *v.shape))[1:], strict=True))
        for v in described.values()
    )
    batches = sum(-(-(shard.stop - shard.start) // plan.batch_size) for shard in plan.shards)
    return Cost(
        images=plan.images,
        forward_passes=forward * plan.images,
        backward_passes=backward * plan.images,
        bytes_stored=image_bytes * plan.images,
        objects=(objects + 1) * len(plan.shards),
        workers=workers,
        memory_per_worker=memory,
        hours=seconds * batches / workers / 3600,
    )


def _reading(plan: Plan, entries: Sequence[Entry]) -> tuple[int, int]:
    """Bytes of the files of the largest batch, which are read at once, and of decoding the largest image."""
    sizes = [sum(fact.size for fact in entry.facts) for entry in entries]
    files = max(
        (sum(sizes[shard.start + row] for row in batch) for shard in plan.shards for batch in shard.batches), default=0
    )
    return files, _DECODING * max((sum(fact.decoded for fact in entry.facts) for entry in entries), default=0)


def _probe(plan: Plan, engine: Engine, threads: int) -> tuple[int, int, float]:
    """Forward and backward passes of one image, and seconds of one batch."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(plan.batch_size, plan.model.channels, *plan.model.input_shape, generator=generator)
    ids = [str(number) for number in range(len(batch))]
    masks = torch.ones(len(batch), *plan.model.input_shape, dtype=torch.bool) if plan.masks else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        engine.explain(batch[:1], ids[:1], None if masks is None else masks[:1])
        passes = engine.forward_passes, engine.backward_passes
        began = time.perf_counter()
        engine.explain(batch, ids, masks)
        return *passes, time.perf_counter() - began
    finally:
        torch.set_num_threads(before)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
