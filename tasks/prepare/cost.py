"""What a plan will cost, before anything runs."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from models.engine import Engine
from models.metrics.evaluate import as_explained, evaluate
from models.uncertainty import ask_members
from tasks.cohort.entry import Entry
from tasks.plan.plan import Plan
from tasks.plan.shards import object_rows
from tasks.store.variables import variables

_DECODING = 8
"""What an image takes while it is read, in multiples of its pixels as float32: a file of float64 voxels is held as
stored and as scaled, both twice as large, then as float32 twice, and twice in a transform."""


@dataclass(frozen=True)
class Cost:
    """What a run will take.

    Attributes
    ----------
    forward_passes, backward_passes
        Those of metrics and uncertainty among them.
    bytes_stored
        Before compression.
    memory_per_worker
        Bytes; the memory of this process after one batch, with a worker's buffers and the largest image decoded.
    hours
        For all workers together, at the pace of one batch explained and one image judged, timed in this process.
    judging_hours
        How much of it is due to metrics and uncertainty.
    """

    images: int
    forward_passes: int
    backward_passes: int
    bytes_stored: int
    objects: int
    workers: int
    memory_per_worker: int
    hours: float
    judging_hours: float


def estimate(
    plan: Plan, entries: Sequence[Entry], engine: Engine, *, workers: int, threads: int, memory_limit: int | None
) -> Cost:
    """Time one batch, and metrics and uncertainty of one image, and count the rest.

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
    explaining, judging = _probe(plan, engine, threads)
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
    judging_hours = judging.seconds * plan.images / workers / 3600
    return Cost(
        images=plan.images,
        forward_passes=(explaining.forward + judging.forward) * plan.images,
        backward_passes=(explaining.backward + judging.backward) * plan.images,
        bytes_stored=image_bytes * plan.images,
        objects=(objects + 1) * len(plan.shards),
        workers=workers,
        memory_per_worker=memory,
        hours=explaining.seconds * batches / workers / 3600 + judging_hours,
        judging_hours=judging_hours,
    )


def _reading(plan: Plan, entries: Sequence[Entry]) -> tuple[int, int]:
    """Bytes of the files of the largest batch, which are read at once, and of decoding the largest image."""
    sizes = [sum(fact.size for fact in entry.facts) for entry in entries]
    files = max(
        (sum(sizes[shard.start + row] for row in batch) for shard in plan.shards for batch in shard.batches), default=0
    )
    return files, _DECODING * max((sum(fact.decoded for fact in entry.facts) for entry in entries), default=0)


@dataclass(frozen=True)
class _Pace:
    """Passes of one image; and seconds, of a batch that is explained or an image that is judged."""

    forward: int
    backward: int
    seconds: float


def _probe(plan: Plan, engine: Engine, threads: int) -> tuple[_Pace, _Pace]:
    """Explain one image and a batch of noise, and judge the one."""
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(plan.batch_size, plan.model.channels, *plan.model.input_shape, generator=generator)
    ids = [str(number) for number in range(len(batch))]
    masks = torch.ones(len(batch), *plan.model.input_shape, dtype=torch.bool) if plan.masks else None
    one = batch[:1], ids[:1], None if masks is None else masks[:1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        maps = engine.explain(*one).maps.cpu()
        forward, backward = engine.forward_passes, engine.backward_passes
        began = time.perf_counter()
        engine.explain(batch, ids, masks)
        explaining = _Pace(forward, backward, time.perf_counter() - began)
        forward, backward = engine.forward_passes, engine.backward_passes
        began = time.perf_counter()
        _judge(plan, engine, maps, *one)
        seconds = time.perf_counter() - began
        return explaining, _Pace(engine.forward_passes - forward, engine.backward_passes - backward, seconds)
    finally:
        torch.set_num_threads(before)


def _judge(plan: Plan, engine: Engine, maps: Tensor, images: Tensor, ids: Sequence[str], masks: Tensor | None) -> None:
    """Judge maps as the plan says."""
    metrics = [measure.metric for measure in plan.metrics]
    if metrics:
        spacing = torch.ones(len(images), plan.model.spatial_dims)
        evaluate(engine, metrics, images, ids, maps, masks, spacing, maps[None])
    for uncertainty in plan.uncertainty:
        case = as_explained(engine, images, ids, masks, None)
        ask_members(engine, uncertainty.members(engine.network), case, uncertainty.explainers)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
