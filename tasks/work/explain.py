"""A worker's work: read, explain, write and commit shards, the three overlapped."""

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import cache
from itertools import chain, islice
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.engine import Engine
from models.explainers.base import MAP_FLAGS
from models.flags import MapFlag
from models.outputs import Computed
from models.prediction import AFFINE, IMAGE, IMAGE_FLAGS, LOGIT, MASK, RECORD
from tasks import telemetry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard
from tasks.storage.location import Location
from tasks.store.commit import STAGED, Commit, DeliveredPart, settle
from tasks.store.flags import raised
from tasks.store.objects import NAME, part_pieces, refill, write
from tasks.store.rows import Rows
from tasks.store.template import EXPLAINED, FAILED, PENDING, QUARANTINED, STATUS, WITHDRAWN
from tasks.store.variables import Block, part_variables
from tasks.work.batches import ReadBatch, read_batches
from tasks.work.engines import Engines
from tasks.work.images import Image, find_again
from tasks.work.misfits import NotAsPlanned
from tasks.work.prefetch import one_first, prefetch
from tasks.work.remaining import Remaining

logger = logging.getLogger(__name__)

_BATCHES_AHEAD = 2


@dataclass
class Delivery:
    """A shard on its way: the rows of its parts in memory, until they are written and committed."""

    remaining: Remaining
    parts: dict[int, Rows]
    status: NDArray[np.int8]
    reasons: dict[str, str] = field(default_factory=dict)
    again: set[int] = field(default_factory=set)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "explain": 0.0, "write": 0.0})

    @classmethod
    def begin(cls, plan: Plan, remaining: Remaining) -> "Delivery":
        """Start with what is known before any image is read: what is kept, withdrawn or no image at all."""
        size = remaining.shard.images
        delivery = cls(remaining, {}, np.full(size, PENDING, np.int8))
        for part, kept in remaining.parts.items():
            delivery.parts[part] = Rows(plan, part_variables(plan, part), size)
            if kept.objects:
                cut = part_pieces(plan, remaining.shard, part)
                refill(delivery.parts[part], {*np.flatnonzero(kept.rows).tolist()}, cut, kept.objects)
        delivering, commit = remaining.shard.delivering, remaining.commit
        for row, entry in enumerate(remaining.entries):
            if entry.withdrawn:
                delivery.status[row] = WITHDRAWN
            elif row not in delivering:
                delivery.refuse(row, QUARANTINED, entry.reason or "the image cannot be read")
            elif remaining.decided[row] and commit:
                delivery.status[row] = commit.status[row]
                if entry.id in commit.reasons:
                    delivery.reasons[entry.id] = commit.reasons[entry.id]
                if row in commit.again:
                    delivery.again.add(row)
        return delivery

    def refuse(self, row: int, status: int, reason: str) -> None:
        self.status[row] = status
        self.reasons[self.remaining.entries[row].id] = reason

    def cannot_read(self, part: int, row: int, why: Unreadable) -> None:
        """Quarantine an image; the maps that are added to one that was explained before are flagged instead."""
        if self.status[row] == PENDING:
            self.refuse(row, QUARANTINED, str(why))
        elif self.status[row] == EXPLAINED:
            self.parts[part].put(row, {MAP_FLAGS: np.array(MapFlag.NO_SOURCE)})
        if isinstance(why, NotAsPlanned):
            self.again.add(row)


def explain_shards(
    output: Location,
    shards: Sequence[int],
    engines: Engines,
    find: Find | None = None,
    check: Callable[[], None] = lambda: None,
) -> int:
    """Deliver the given shards of the plan at `output`; return the number of images in them.

    A shard that has a whole commit is left alone. While one batch is explained, the next are read, the maps of the
    last are encoded, and the last shard is written: a worker holds three batches and one encoded shard besides those
    it works on, whatever the cohort. Where another task of this process asks the network, the first batch is read, and
    waits for its turn.

    Parameters
    ----------
    engines
        The engines of this process.
    find
        Where the images of these shards lie; None: the cohort is surveyed once more.
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
        _explain_missing(output, plan, todo, engines, find or find_again(output, plan), check)
    return sum(plan.shards[index].images for index in shards)


def _explain_missing(
    output: Location,
    plan: Plan,
    todo: Sequence[tuple[Shard, Commit | None]],
    engines: Engines,
    find: Find,
    check: Callable[[], None],
) -> None:
    kept: Future[None] | None = None
    written: Future[None] | None = None
    ours = threading.Event()
    own = cache(lambda: engines.of(output, plan).parts)  # built when the first image was read
    with (
        ThreadPoolExecutor(1, thread_name_prefix="write") as write_thread,
        ThreadPoolExecutor(1, thread_name_prefix="keep") as keep_thread,
        closing(prefetch(one_first(read_batches(output, plan, todo, find), ours), _BATCHES_AHEAD)) as batches,
        ExitStack() as at_the_end,
    ):
        at_the_end.callback(ours.set)  # whoever reads does not wait for a turn that never comes
        first = [*islice(batches, 1)]
        with engines.turn:
            ours.set()
            for batch in chain(first, batches):
                check()
                if batch.is_first:
                    delivery = Delivery.begin(plan, batch.remaining)
                if batch.number is not None:
                    found = _explain(delivery, batch, batch.number, own())
                    if kept:
                        kept.result()
                    kept = keep_thread.submit(copy_context().run, _keep, plan, delivery, batch, batch.number, found)
                if batch.is_last:
                    if written:
                        written.result()
                    check()
                    written = write_thread.submit(copy_context().run, _deliver, output, plan, delivery, kept)
        if written:
            written.result()


Found = dict[int, dict[str, NDArray[Any]]]
"""By part, the values of a batch by output."""


def _explain(delivery: Delivery, batch: ReadBatch, number: int, engines: Sequence[Engine]) -> Found:
    """Ask about a batch."""
    began = time.perf_counter()
    found: Found = {}
    for part in delivery.parts:
        if batch.readable and delivery.remaining.wanted(part, number):
            halvings = engines[part].halvings
            found[part] = {name: values.cpu().numpy() for name, values in _ask(engines[part], batch).items()}
            telemetry.HALVINGS.inc(engines[part].halvings - halvings)
    delivery.seconds["read"] += batch.seconds
    delivery.seconds["explain"] += time.perf_counter() - began
    return found


def _keep(plan: Plan, delivery: Delivery, batch: ReadBatch, number: int, found: Found) -> None:
    """Put what was read and found of a batch into the delivery, where it is encoded."""
    began = time.perf_counter()
    explained: set[int] = set()
    for part, rows in delivery.parts.items():
        wanted = delivery.remaining.wanted(part, number)
        explained.update(wanted)
        for row in wanted:
            image = batch.images[row]
            if isinstance(image, Unreadable):
                delivery.cannot_read(part, row, image)
                continue
            rows.put(row, _as_read(image))
            _put(delivery, part, row, {name: values[batch.rows.index(row)] for name, values in found[part].items()})
    delivery.seconds["write"] += time.perf_counter() - began
    _tell(plan, delivery, sorted(explained))


def _as_read(image: Image) -> dict[str, Any]:
    found: dict[str, Any] = {IMAGE: image.prepared.image, AFFINE: image.prepared.affine, IMAGE_FLAGS: int(image.flags)}
    found |= {RECORD: np.array(image.record, np.float32), **image.beside}
    return found if image.mask is None else found | {MASK: image.mask}


def _ask(engine: Engine, batch: ReadBatch) -> Computed:
    assert batch.inputs is not None
    return engine.explain(batch.inputs.take(), batch.ids, batch.masks, batch.record).outputs


def _put(delivery: Delivery, part: int, row: int, values: Mapping[str, NDArray[Any]]) -> None:
    """Put what the network said of an image into a part; a prediction that is not finite fails the image."""
    if delivery.status[row] == PENDING:
        if np.isfinite(values[LOGIT]).all():
            delivery.status[row] = EXPLAINED
        else:
            delivery.refuse(row, FAILED, "the prediction is not finite: check the model and the preprocessing")
    if delivery.status[row] == EXPLAINED and np.isfinite(values[LOGIT]).all():
        rows = delivery.parts[part]
        if IMAGE_FLAGS in rows.values:  # those of the mask were found when it was read
            values = {**values, IMAGE_FLAGS: values[IMAGE_FLAGS] | rows.values[IMAGE_FLAGS][row]}
        rows.put(row, values)


def _tell(plan: Plan, delivery: Delivery, rows: Sequence[int]) -> None:
    """Count what became of some images; log those that are left out, by pseudonym, or by row where there is none."""
    for row in rows:
        status, entry = STATUS[delivery.status[row]], delivery.remaining.entries[row]
        telemetry.IMAGES.labels(status).inc()
        if reason := delivery.reasons.get(entry.id):
            shard = delivery.remaining.shard
            name = entry.id if plan.cohort.identifiers == "pseudonymous" else f"in row {shard.start + row}"
            about = {"shard": shard.index, "image": name}
            logger.warning("image %s is %s: %s", name, status, reason, extra=about)


def _deliver(output: Location, plan: Plan, delivery: Delivery, kept: Future[None] | None) -> None:
    """Write the parts, then the commit; what an earlier commit speaks of is replaced only after that.

    Parameters
    ----------
    kept
        The last batch of the shard on its way into the delivery.
    """
    if kept:
        kept.result()
    began = time.perf_counter()
    remaining = delivery.remaining
    before = remaining.commit.parts if remaining.commit else {}
    parts = dict(before) if remaining.unchanged else {}
    for part, rows in delivery.parts.items():
        folder = output / (STAGED if part in before else NAME)
        objects = write(folder, part_pieces(plan, remaining.shard, part), rows)
        flags = {name: tuple(np.flatnonzero(own).tolist()) for name, own in _flagged(plan, part, rows.values).items()}
        parts[part] = DeliveredPart(digest=plan.part_digests[part], objects=objects, flags=flags)
    delivery.seconds["write"] += time.perf_counter() - began
    commit = Commit(
        shard=remaining.shard.index,
        rows=remaining.rows,
        status=tuple(int(code) for code in delivery.status),
        reasons=delivery.reasons,
        again=tuple(sorted(delivery.again)),
        parts=dict(sorted(parts.items())),
        seconds=delivery.seconds,
    )
    commit.write(output)
    if before:
        settle(output, output / NAME, [commit.shard], {commit.shard: commit})
    for stage, seconds in delivery.seconds.items():
        telemetry.SECONDS.labels(stage).inc(seconds)
    telemetry.STORED.inc(sum(parts[part].size for part in delivery.parts))
    logger.info("shard %d committed: %d images", commit.shard, remaining.shard.images, extra={"shard": commit.shard})


def _flagged(plan: Plan, part: int, block: Block) -> dict[str, NDArray[np.bool_]]:
    found: dict[str, NDArray[np.bool_]] = {}
    for output in plan.parts[part].outputs:
        found |= raised(output.name, output.flags, block[output.name]) if output.flags else {}
    return {name: rows for name, rows in found.items() if rows.any()}
