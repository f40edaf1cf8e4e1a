"""The forecast of what a plan will cost, before anything runs."""

import math
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engine import Engine
from models.errors import ConfigurationError
from models.metrics.evaluate import as_explained, evaluate
from models.uncertainty import ask_members
from tasks.cohort.entry import Entry
from tasks.plan.plan import Plan
from tasks.prepare.memory import reading
from tasks.prepare.place import Place
from tasks.store.variables import Variable, layout, variables


@dataclass(frozen=True)
class Cost:
    """Passes, bytes, memory and time that a run will take.

    Attributes
    ----------
    forward_passes, backward_passes
        Windows that are asked about, those of metrics, uncertainty and results among them.
    bytes_stored
        Before compression.
    memory_per_worker
        Bytes; the memory of this process after one batch, with a worker's buffers and the largest image decoded.
    hours
        For all workers together, at the pace of one batch explained and one image evaluated, timed in this process;
        and for the passes of results, which are not shared out.
    evaluating_hours
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
    evaluating_hours: float


Tried = tuple[Tensor, Tensor]
"""Images ``(image, channel, *space)``, and the records beside them, ``(image, field)``."""


def estimate(plan: Plan, entries: Sequence[Entry], engine: Engine, place: Place, tried: Tried | None = None) -> Cost:
    """Time one batch, and metrics and uncertainty of one image, and count the rest.

    Parameters
    ----------
    place
        The workers, and what each has.
    tried
        Images of the cohort that are tried; None: noise is.

    Raises
    ------
    ConfigurationError
        If a worker's memory would not hold its shards.
    """
    described = variables(plan, plan.outputs.values())
    by_image = [one for one in described.values() if one.output.per_image]
    whole_bytes = sum(_bytes(one) for one in described.values() if not one.output.per_image)
    image_bytes = sum(map(_bytes, by_image))
    explaining, evaluating = _probe(plan, engine, place.threads, tried or _noise(plan, engine))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    # A shard that is filled, one that is written and one read back; the maps of two batches more than were tried, and
    # the inputs of four in three versions.
    input_bytes = math.prod(plan.grid) * plan.model.channels * 4
    files, decoding = reading(plan, entries)
    shards_bytes = 3 * sum(map(_encoded_bytes, by_image)) * plan.images_per_shard
    memory = peak + shards_bytes + (2 * image_bytes + 15 * input_bytes) * plan.images_at_once + files + decoding
    if place.memory_limit and memory > place.memory_limit:
        raise ConfigurationError(
            f"a worker would need {_gib(memory)} (one batch of {plan.images_at_once} images: {_gib(peak)}; "
            f"three shards of {plan.images_per_shard} images: {_gib(shards_bytes)}; "
            f"the files of a batch: {_gib(files)}; the largest image while it is decoded: {_gib(decoding)}), "
            f"but it may use {_gib(place.memory_limit)}: use fewer workers, raise compute.memory_per_worker, or lower "
            "batch_size or cohort.largest_image"
        )
    objects = sum(_objects(plan, one) for one in by_image)
    wholes = sum(_objects(plan, one) for one in described.values() if not one.output.per_image)
    batches = sum(-(-(shard.stop - shard.start) // plan.images_at_once) for shard in plan.shards)
    evaluating_hours = evaluating.seconds * plan.images / place.workers / 3600
    asked = [planned.result.passes(planned.outputs) for planned in plan.results]
    forward, backward = sum(one for one, _ in asked), sum(one for _, one in asked)
    of_a_batch = (explaining.forward + explaining.backward) * plan.images_at_once
    results_hours = (forward + backward) * explaining.seconds / of_a_batch / 3600
    return Cost(
        images=plan.images,
        forward_passes=(explaining.forward + evaluating.forward) * plan.images + forward,
        backward_passes=(explaining.backward + evaluating.backward) * plan.images + backward,
        bytes_stored=image_bytes * plan.images + whole_bytes,
        objects=(objects + 1 + bool(plan.evaluated)) * len(plan.shards) + wholes,
        workers=place.workers,
        memory_per_worker=memory,
        hours=explaining.seconds * batches / place.workers / 3600 + evaluating_hours + results_hours,
        evaluating_hours=evaluating_hours,
    )


def _bytes(variable: Variable) -> int:
    """Bytes of one image, or of the whole of an array without `image_id`."""
    return math.prod(variable.shape) * variable.itemsize


def _encoded_bytes(variable: Variable) -> int:
    """Bytes of one image at most, encoded: a value whose mantissa is rounded has two bytes of zeros."""
    return _bytes(variable) // (1 if variable.output.mantissa is None else 2)


def _objects(plan: Plan, variable: Variable) -> int:
    """Objects of one shard, or of the whole of an array without `image_id`."""
    sides = layout(plan, variable).shape
    sides = sides[1:] if variable.output.per_image else sides
    return math.prod(-(-size // side) for size, side in zip(variable.shape, sides, strict=True))


@dataclass(frozen=True)
class _Pace:
    """Passes of one image; and seconds, of a batch that is explained or an image that is evaluated."""

    forward: int
    backward: int
    seconds: float


def _noise(plan: Plan, engine: Engine) -> Tried:
    images = torch.randn(1, plan.model.channels, *plan.grid, generator=torch.Generator().manual_seed(0))
    return images, engine.network.synthetic_record(1)


def _probe(plan: Plan, engine: Engine, threads: int, tried: Tried) -> tuple[_Pace, _Pace]:
    """Explain one image and a batch of several, and evaluate the one."""
    batch, record = (part[torch.arange(plan.images_at_once) % len(part)] for part in tried)
    ids = [str(number) for number in range(len(batch))]
    masks = torch.ones(len(batch), *plan.grid, dtype=torch.bool) if plan.masks else None
    one = batch[:1], ids[:1], None if masks is None else masks[:1], record[:1]
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        began = time.perf_counter()
        maps = engine.explain(*one).maps.cpu()
        forward, backward = engine.forward_passes, engine.backward_passes
        if len(batch) > 1:
            began = time.perf_counter()
            engine.explain(batch, ids, masks, record)
        explaining = _Pace(forward, backward, time.perf_counter() - began)
        forward, backward = engine.forward_passes, engine.backward_passes
        began = time.perf_counter()
        _evaluate(plan, engine, maps, *one)
        seconds = time.perf_counter() - began
        return explaining, _Pace(engine.forward_passes - forward, engine.backward_passes - backward, seconds)
    finally:
        torch.set_num_threads(before)


def _evaluate(
    plan: Plan, engine: Engine, maps: Tensor, images: Tensor, ids: Sequence[str], masks: Tensor | None, record: Tensor
) -> None:
    """Compute metrics and uncertainty as the plan says."""
    metrics = [planned.metric for planned in plan.metrics]
    if metrics:
        spacing = torch.ones(len(images), len(plan.grid))
        evaluate(engine, metrics, images, ids, maps, masks, spacing, maps[None], record=record)
    for uncertainty in (planned.uncertainty for planned in plan.uncertainty):
        case = as_explained(engine, images, ids, masks, None, record)
        ask_members(engine, uncertainty.members(engine.network), case, uncertainty.explainers)


def _gib(size: int) -> str:
    return f"{size / 2**30:.1f} GiB"
