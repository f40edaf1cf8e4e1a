"""A worker's work: read, explain, write and commit shards, the three overlapped."""

import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.engine import Engine, Explanation
from models.network import build
from models.preprocessing import Prepared, Preprocessing
from tasks import manifest
from tasks.commit import Commit, delivered
from tasks.flags import raised
from tasks.images import Image, read_background, read_images, stack
from tasks.manifest import Entry
from tasks.plan import Plan, Shard
from tasks.readers.base import Unreadable
from tasks.storage import Location
from tasks.store import EXPLAINED, FAILED, QUARANTINED, write_shard
from tasks.variables import empty_block, variables

logger = logging.getLogger(__name__)
T = TypeVar("T")

_BATCHES_AHEAD = 2


@dataclass
class Delivery:
    """A shard on its way: its rows in memory, until they are written and committed."""

    shard: Shard
    block: dict[str, NDArray[Any]]
    status: NDArray[np.int8]
    reasons: dict[str, str] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=lambda: {"read": 0.0, "explain": 0.0, "write": 0.0})

    def refuse(self, row: int, entry: Entry, status: int, reason: str) -> None:
        self.status[row] = status
        self.reasons[entry.id] = reason


@dataclass(frozen=True)
class Batch:
    """Some rows of a shard, read: each prepared, with its mask on the grid, or with the reason why not."""

    shard: Shard
    rows: range
    entries: Sequence[Entry]
    images: Sequence[Image | Unreadable]
    seconds: float


def explain_shards(output: Location, shards: range) -> int:
    """Deliver the given shards of the plan at `output`; return the number of images in them.

    A shard that has a valid commit is left alone. While one batch is explained, the next are read and the last
    shard is written: a worker holds two batches and one shard besides those it works on, whatever the cohort.
    """
    plan = Plan.read(output)
    done = delivered(output, plan)
    todo = [plan.shards[index] for index in shards if index not in done]
    if todo:
        _explain_missing(output, plan, todo)
    return sum(plan.shards[index].stop - plan.shards[index].start for index in shards)


def _explain_missing(output: Location, plan: Plan, shards: Sequence[Shard]) -> None:
    engine, preprocessing = _engine(output, plan.digest)
    described = variables(plan)
    written: Future[None] | None = None
    with ThreadPoolExecutor(1, thread_name_prefix="write") as write_thread:
        for batch in _ahead(_batches(output, plan, shards, preprocessing), _BATCHES_AHEAD):
            size = batch.shard.stop - batch.shard.start
            if batch.rows.start == 0:
                delivery = Delivery(batch.shard, empty_block(described, size), np.zeros(size, np.int8))
            _explain(delivery, batch, engine)
            if batch.rows.stop == size:
                if written:
                    written.result()
                written = write_thread.submit(_deliver, output, plan, delivery)
        if written:
            written.result()


@lru_cache(maxsize=1)
def _engine(output: Location, plan_digest: str) -> tuple[Engine, Preprocessing]:
    """One network a worker, whatever the number of its tasks."""
    plan = Plan.read(output)
    preprocessing = Preprocessing(plan.cohort.preprocessing)
    entries = manifest.read(output, ids=plan.background) if plan.background else []
    ids, background = read_background(plan, entries, preprocessing)
    if missing := sorted(set(plan.background) - set(ids)):
        raise ValueError(
            f"{len(missing)} background images, such as {missing[0]!r}, cannot be read any more or changed after the "
            "run was planned: restore them, or run again with a new output"
        )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build(plan.model, plan.model.weights.read(), device)
    return Engine(network, plan.explainers, plan.target, plan.batch_size, background), preprocessing


def _batches(output: Location, plan: Plan, shards: Sequence[Shard], preprocessing: Preprocessing) -> Iterator[Batch]:
    for shard in shards:
        entries = manifest.read(output, [shard.index])
        for start in range(0, len(entries), plan.batch_size):
            began = time.perf_counter()
            chosen = entries[start : start + plan.batch_size]
            images = read_images(plan, chosen, preprocessing)
            rows = range(start, start + len(chosen))
            yield Batch(shard, rows, chosen, images, time.perf_counter() - began)


def _explain(delivery: Delivery, batch: Batch, engine: Engine) -> None:
    began = time.perf_counter()
    readable: list[tuple[int, Entry, Prepared]] = []
    for row, entry, image in zip(batch.rows, batch.entries, batch.images, strict=True):
        if isinstance(image, Unreadable):
            delivery.refuse(row, entry, QUARANTINED, str(image))
            continue
        prepared, mask = image
        readable.append((row, entry, prepared))
        delivery.block["image"][row] = prepared.image
        delivery.block["affine"][row] = prepared.affine
        if mask is not None:
            delivery.block["mask"][row] = mask
    if readable:
        inputs = stack([prepared.network_input for _, _, prepared in readable])
        explanation = engine.explain(inputs, [entry.id for _, entry, _ in readable], _masks(delivery, readable))
        _fill(delivery, [(row, entry) for row, entry, _ in readable], explanation)
    delivery.seconds["read"] += batch.seconds
    delivery.seconds["explain"] += time.perf_counter() - began


def _masks(delivery: Delivery, readable: Sequence[tuple[int, Entry, Prepared]]) -> Tensor | None:
    """The masks as they lie in the block; an image without one has no place in it."""
    if "mask" not in delivery.block:
        return None
    return torch.from_numpy(delivery.block["mask"][[row for row, _, _ in readable]] == 1)


def _fill(delivery: Delivery, explained: Sequence[tuple[int, Entry]], explanation: Explanation) -> None:
    results = {
        "logit": explanation.logits.cpu().numpy(),
        "probability": explanation.probability.cpu().numpy(),
        "target_class": explanation.target_class.cpu().numpy(),
        "attribution": explanation.maps.cpu().numpy(),
        "image_flags": explanation.image_flags.cpu().numpy(),
        "map_flags": explanation.map_flags.cpu().numpy(),
    }
    for index, (row, entry) in enumerate(explained):
        if not np.isfinite(results["logit"][index]).all():
            reason = "the prediction is not finite: check the model and the preprocessing"
            delivery.refuse(row, entry, FAILED, reason)
            continue
        delivery.status[row] = EXPLAINED
        for name, values in results.items():
            if name in delivery.block:
                delivery.block[name][row] = values[index]


def _deliver(output: Location, plan: Plan, delivery: Delivery) -> None:
    began = time.perf_counter()
    shard = delivery.shard
    objects = write_shard(output, plan, shard, delivery.block)
    delivery.seconds["write"] = time.perf_counter() - began
    flags = {name: images for name, images in raised(delivery.block).items() if images.any()}
    Commit(
        shard=shard.index,
        digest=shard.digest,
        plan=plan.digest,
        objects=objects,
        status=tuple(int(code) for code in delivery.status),
        reasons=delivery.reasons,
        flagged=int(np.logical_or.reduce(list(flags.values())).sum()) if flags else 0,
        flags={name: int(images.sum()) for name, images in flags.items()},
        seconds=delivery.seconds,
    ).write(output)
    logger.info("shard %d committed: %d images", shard.index, shard.stop - shard.start)


def _ahead(items: Iterable[T], depth: int) -> Iterator[T]:
    """Run an iterator in a thread of its own, at most `depth` items ahead of who takes them."""
    ready: queue.Queue[tuple[str, Any]] = queue.Queue(depth)
    stopped = threading.Event()

    def offer(kind: str, value: Any) -> bool:
        while not stopped.is_set():
            try:
                ready.put((kind, value), timeout=0.5)
                return True
            except queue.Full:
                continue
        return False

    def run() -> None:
        try:
            if all(offer("item", item) for item in items):
                offer("end", None)
        except BaseException as error:  # handed to the thread that takes the items
            offer("error", error)

    thread = threading.Thread(target=run, name="read", daemon=True)
    thread.start()
    try:
        while True:
            kind, value = ready.get()
            if kind == "item":
                yield value
            elif kind == "error":
                raise value
            else:
                return
    finally:
        stopped.set()
        thread.join()
