"""A worker's work: read, explain, write and commit shards, the three overlapped."""

import logging
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache, partial

import numpy as np
from numpy.typing import NDArray

from models.engine import Engine, Explanation
from models.flags import MapFlag
from models.network import build
from models.preprocessing import Preprocessing
from tasks import telemetry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard
from tasks.prepare.precision import check_instructions
from tasks.storage.location import Location
from tasks.store.commit import Commit, Part, settle
from tasks.store.flags import raised
from tasks.store.store import EXPLAINED, FAILED, NAME, PENDING, QUARANTINED, STATUS, WITHDRAWN, Block, write_part
from tasks.store.variables import empty_block, part_variables
from tasks.work.batches import Batch, device, read_batches
from tasks.work.images import NotAsPlanned, find_again, read_background
from tasks.work.prefetch import ahead
from tasks.work.remaining import Work

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 2
_kept: dict[tuple[Location, str], tuple[Engine, ...]] = {}
"""The engines of the plan that was worked on last: one network a worker, whatever the number of its tasks."""


@dataclass
class Delivery:
    """A shard on its way: the rows of its parts in memory, until they are written and committed."""

    work: Work
    blocks: dict[int, Block]
    status: NDArray[np.int8]
    reasons: dict[str, str] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "explain": 0.0, "write": 0.0})

    @classmethod
    def begin(cls, plan: Plan, work: Work) -> "Delivery":
        """Start with what is known before any image is read: what is kept, withdrawn or no image at all."""
        size = work.shard.images
        delivery = cls(work, {}, np.full(size, PENDING, np.int8))
        for part, kept in work.parts.items():
            block = empty_block(part_variables(plan, part), size)
            for name in block if kept.block else ():
                assert kept.block is not None
                block[name][kept.rows] = kept.block[name][kept.rows]
            delivery.blocks[part] = block
        known = work.parts[0].rows if 0 in work.parts else np.full(size, work.unchanged)
        delivering = work.shard.delivering
        for row, entry in enumerate(work.entries):
            if entry.withdrawn:
                delivery.status[row] = WITHDRAWN
            elif row not in delivering:
                delivery.refuse(row, QUARANTINED, entry.reason or "the image cannot be read")
            elif known[row] and work.commit:
                delivery.status[row] = work.commit.status[row]
                if entry.id in work.commit.reasons:
                    delivery.reasons[entry.id] = work.commit.reasons[entry.id]
                if row in work.commit.again:
                    delivery.again.add(row)
        return delivery

    def refuse(self, row: int, status: int, reason: str) -> None:
        self.status[row] = status
        self.reasons[self.work.entries[row].id] = reason


def explain_shards(
    output: Location, shards: Sequence[int], find: Find | None = None, check: Callable[[], None] = lambda: None
) -> int:
    """Deliver the given shards of the plan at `output`; return the number of images in them.

    A shard that has a whole commit is left alone. While one batch is explained, the next are read and the last
    shard is written: a worker holds two batches and one shard besides those it works on, whatever the cohort.

    Parameters
    ----------
    find
        Where the images of these shards, and those of the background, lie; None: the cohort is surveyed once more.
    check
        Called before every batch and every write; raises if nobody wants the work any more.
    """
    plan = Plan.read(output)
    commits = Commit.read(output, shards)
    settle(output, output / NAME, shards, commits)
    todo = [
        (plan.shards[index], commits.get(index))
        for index in shards
        if index not in commits or not commits[index].is_whole(plan)
    ]
    if todo:
        _explain_missing(output, plan, todo, find or find_again(output, plan), check)
    return sum(plan.shards[index].images for index in shards)


def _explain_missing(
    output: Location,
    plan: Plan,
    todo: Sequence[tuple[Shard, Commit | None]],
    find: Find,
    check: Callable[[], None],
) -> None:
    written: Future[None] | None = None
    engines = cache(partial(_engines, output, plan, find))
    with (
        ThreadPoolExecutor(1, thread_name_prefix="write") as write_thread,
        closing(ahead(read_batches(output, plan, todo, find), _BATCHES_AHEAD)) as batches,
    ):
        for batch in batches:
            check()
            if batch.is_first:
                delivery = Delivery.begin(plan, batch.work)
            if batch.number is not None:
                _explain(plan, delivery, batch, batch.number, engines())
            if batch.is_last:
                if written:
                    written.result()
                check()
                written = write_thread.submit(copy_context().run, _deliver, output, plan, delivery)
        if written:
            written.result()


def _engines(output: Location, plan: Plan, find: Find) -> tuple[Engine, ...]:
    """An engine for each part."""
    if (output, plan.digest) not in _kept:
        _kept.clear()
        _kept[output, plan.digest] = _make_engines(output, plan, find)
    return _kept[output, plan.digest]


def _make_engines(output: Location, plan: Plan, find: Find) -> tuple[Engine, ...]:
    entries = manifest.read(output, ids=plan.background) if plan.background else []
    ids, background = read_background(plan, entries, Preprocessing(plan.cohort.preprocessing), find)
    if missing := sorted(set(plan.background) - set(ids)):
        raise ValueError(
            f"{len(missing)} background images, such as {missing[0]!r}, cannot be read any more or changed after the "
            "run was planned: restore them, or run again with a new output"
        )
    check_instructions(plan.precision, device())
    network = build(plan.model, plan.model.weights.read(), device(), plan.precision)
    return tuple(Engine(network, part, plan.target, plan.batch_size, background) for part in plan.parts)


def _explain(plan: Plan, delivery: Delivery, batch: Batch, number: int, engines: Sequence[Engine]) -> None:
    began = time.perf_counter()
    work, readable = batch.work, batch.readable
    explained: set[int] = set()
    for part, block in delivery.blocks.items():
        wanted = work.wanted(part, number)
        explained.update(wanted)
        for row in wanted:
            image = batch.images[row]
            if isinstance(image, Unreadable):
                _refuse(delivery, part, row, image)
            elif part == 0:
                prepared, mask = image
                block["image"][row] = prepared.image
                block["affine"][row] = prepared.affine
                if mask is not None:
                    block["mask"][row] = mask
        if readable and wanted:
            halvings = engines[part].halvings
            explanation = _ask(engines[part], batch)
            telemetry.HALVINGS.inc(engines[part].halvings - halvings)
            _fill(
                delivery,
                part,
                [(index, row) for index, row in enumerate(batch.rows) if row in wanted and row in readable],
                explanation,
            )
    delivery.seconds["read"] += batch.seconds
    delivery.seconds["explain"] += time.perf_counter() - began
    _tell(plan, delivery, sorted(explained))


def _tell(plan: Plan, delivery: Delivery, rows: Sequence[int]) -> None:
    """Count what became of some images; log those that are left out, by pseudonym, or by row where there is none."""
    for row in rows:
        status, entry = STATUS[delivery.status[row]], delivery.work.entries[row]
        telemetry.IMAGES.labels(status).inc()
        if reason := delivery.reasons.get(entry.id):
            shard = delivery.work.shard
            name = entry.id if plan.cohort.identifiers == "pseudonymous" else f"in row {shard.start + row}"
            about = {"shard": shard.index, "image": name}
            logger.warning("image %s is %s: %s", name, status, reason, extra=about)


def _ask(engine: Engine, batch: Batch) -> Explanation:
    assert batch.inputs is not None
    return engine.explain(batch.inputs.take(), batch.ids, batch.masks)


def _refuse(delivery: Delivery, part: int, row: int, why: Unreadable) -> None:
    if part == 0:
        delivery.refuse(row, QUARANTINED, str(why))
    elif delivery.status[row] == EXPLAINED and "map_flags" in delivery.blocks[part]:
        delivery.blocks[part]["map_flags"][row] = MapFlag.NO_SOURCE
    if isinstance(why, NotAsPlanned):
        delivery.again.add(row)


def _fill(delivery: Delivery, part: int, explained: Sequence[tuple[int, int]], explanation: Explanation) -> None:
    """Put what was found for some images, given by place in the batch and row, into a part's block."""
    results = {
        "logit": explanation.logits.cpu().numpy(),
        "probability": explanation.probability.cpu().numpy(),
        "target_class": explanation.target_class.cpu().numpy(),
        "attribution": explanation.maps.cpu().numpy(),
        "image_flags": explanation.image_flags.cpu().numpy(),
        "map_flags": explanation.map_flags.cpu().numpy(),
    }
    block = delivery.blocks[part]
    for index, row in explained:
        if not np.isfinite(results["logit"][index]).all():
            if part == 0:
                delivery.refuse(row, FAILED, "the prediction is not finite: check the model and the preprocessing")
            continue
        if part == 0:
            delivery.status[row] = EXPLAINED
        for name, values in results.items():
            if name in block:
                block[name][row] = values[index]


def _deliver(output: Location, plan: Plan, delivery: Delivery) -> None:
    """Write the parts, then the commit; what an earlier commit speaks of is replaced only after that."""
    began = time.perf_counter()
    work = delivery.work
    spoken_of = work.commit.objects if work.commit else {}
    parts = dict(work.commit.parts) if work.commit and work.unchanged else {}
    for part, block in delivery.blocks.items():
        delivered = bool(work.commit and part in work.commit.parts)
        flags = {name: tuple(np.flatnonzero(rows).tolist()) for name, rows in raised(block).items() if rows.any()}
        objects = write_part(output, plan, work.shard, part, block, staged=delivered)
        parts[part] = Part(digest=plan.part_digests[part], objects=objects, flags=flags)
    delivery.seconds["write"] = time.perf_counter() - began
    commit = Commit(
        shard=work.shard.index,
        rows=work.rows,
        status=tuple(int(code) for code in delivery.status),
        reasons=delivery.reasons,
        again=tuple(sorted(delivery.again)),
        parts=dict(sorted(parts.items())),
        seconds=delivery.seconds,
    )
    commit.write(output)
    if spoken_of:
        settle(output, output / NAME, [commit.shard], {commit.shard: commit})
    for stage, seconds in delivery.seconds.items():
        telemetry.SECONDS.labels(stage).inc(seconds)
    telemetry.STORED.inc(sum(parts[part].size for part in delivery.blocks))
    logger.info("shard %d committed: %d images", commit.shard, work.shard.images, extra={"shard": commit.shard})
