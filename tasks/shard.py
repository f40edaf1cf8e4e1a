"""A worker's work: read, explain, write and commit shards, the three overlapped."""

import hashlib
import logging
import queue
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from models.engine import Engine, Explanation
from models.network import build
from models.preprocessing import Prepared, Preprocessing, resample_mask
from tasks import manifest
from tasks.cohort import combine
from tasks.commit import Commit, delivered
from tasks.manifest import Entry
from tasks.plan import Plan, Shard
from tasks.readers import read
from tasks.readers.base import Unreadable
from tasks.storage import Location
from tasks.store import EXPLAINED, FAILED, QUARANTINED, empty_block, variables, write_shard

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
    images: Sequence[tuple[Prepared, NDArray[np.bool_] | None] | Unreadable]
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
    device = "cuda" if torch.cuda.is_available() else "cpu"
    network = build(plan.model, plan.model.weights.read(), device)
    return Engine(network, plan.explainers, plan.target, plan.batch_size), Preprocessing(plan.cohort.preprocessing)


def _batches(output: Location, plan: Plan, shards: Sequence[Shard], preprocessing: Preprocessing) -> Iterator[Batch]:
    for shard in shards:
        entries = manifest.read(output, [shard.index])
        for start in range(0, len(entries), plan.batch_size):
            began = time.perf_counter()
            chosen = entries[start : start + plan.batch_size]
            wanted = list(dict.fromkeys(uri for entry in chosen for uri in entry.files))
            files = dict(zip(wanted, plan.cohort.source.read_all(wanted), strict=True))
            images = [_image(plan, entry, files, preprocessing) for entry in chosen]
            rows = range(start, start + len(chosen))
            yield Batch(shard, rows, chosen, images, time.perf_counter() - began)


def _image(
    plan: Plan, entry: Entry, files: Mapping[str, bytes | Exception], preprocessing: Preprocessing
) -> tuple[Prepared, NDArray[np.bool_] | None] | Unreadable:
    if entry.reason:
        return Unreadable(entry.reason)
    try:
        parts = [_present(files[uri]) for uri in entry.uris]
        if combine([hashlib.sha256(part).hexdigest() for part in parts]) != entry.digest:
            raise Unreadable("the file changed after the run was planned: run again with a new output")
        decoded = read(parts, plan.model.spatial_dims, plan.cohort.window)
        prepared = _prepare(decoded.pixels, decoded.affine, preprocessing, plan)
        if entry.mask is None:
            return prepared, None
        mask = read([_present(files[entry.mask])], plan.model.spatial_dims).pixels.max(axis=0) > 0
        if mask.shape != decoded.pixels.shape[1:]:
            raise Unreadable(f"its mask has the shape {mask.shape}, the image {decoded.pixels.shape[1:]}")
        return prepared, resample_mask(mask, prepared.to_source, plan.model.input_shape)
    except Unreadable as reason:
        return reason


def _present(data: bytes | Exception) -> bytes:
    if isinstance(data, (FileNotFoundError, PermissionError)):
        raise Unreadable(f"a file of the image cannot be opened ({type(data).__name__})")
    if isinstance(data, Exception):
        raise data
    return data


def _prepare(
    pixels: NDArray[np.float32], affine: NDArray[np.float64] | None, preprocessing: Preprocessing, plan: Plan
) -> Prepared:
    try:
        prepared = preprocessing(pixels, affine)
    except Exception as error:  # a transform can raise anything on an image it was not made for
        raise Unreadable(f"preprocessing of shape {pixels.shape}: {type(error).__name__}: {error}") from error
    expected = (plan.model.channels, *plan.model.input_shape)
    if prepared.network_input.shape != expected:
        raise Unreadable(
            f"shape {prepared.network_input.shape} after preprocessing (from {pixels.shape}), but the model takes "
            f"{expected}: add a transform such as Resize, or leave the image out"
        )
    bad = int((~np.isfinite(prepared.network_input)).sum())
    if bad:
        raise Unreadable(f"{bad} pixels are NaN or infinite after preprocessing: mend the file or the preprocessing")
    return prepared


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
        inputs = torch.from_numpy(np.stack([prepared.network_input for _, _, prepared in readable]))
        explanation = engine.explain(inputs, [entry.id for _, entry, _ in readable])
        _fill(delivery, [(row, entry) for row, entry, _ in readable], explanation)
    delivery.seconds["read"] += batch.seconds
    delivery.seconds["explain"] += time.perf_counter() - began


def _fill(delivery: Delivery, explained: Sequence[tuple[int, Entry]], explanation: Explanation) -> None:
    results = {
        "logit": explanation.logits.cpu().numpy(),
        "probability": explanation.probability.cpu().numpy(),
        "target_class": explanation.target_class.cpu().numpy(),
        "attribution": explanation.maps.cpu().numpy(),
    }
    for index, (row, entry) in enumerate(explained):
        if not all(np.isfinite(values[index]).all() for values in results.values()):
            reason = "the prediction or a map is not finite: check the model and the preprocessing"
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
    Commit(
        shard=shard.index,
        digest=shard.digest,
        plan=plan.digest,
        objects=objects,
        status=tuple(int(code) for code in delivery.status),
        reasons=delivery.reasons,
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
