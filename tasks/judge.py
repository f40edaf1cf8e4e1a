"""Metrics of shards: computed from what is stored of them, and recorded as their delivery is.

Images, masks and maps are taken from the store, and neither the cohort nor the run's memory is asked: a metric has the
same value whenever it is computed.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.engine import Engine
from models.metrics import Metric, MetricConfig, evaluate, standard
from models.metrics.evaluate import spacing_of
from models.network import build
from models.preprocessing import Preprocessing
from tasks import manifest
from tasks.commit import Commit, Record, StoredObject, delivered
from tasks.encoding import encode_chunk, pad
from tasks.images import stack
from tasks.plan import Measure, Plan, Shard
from tasks.replan import with_metrics
from tasks.storage import Location
from tasks.store import EXPLAINED, NAME, Block, read_part
from tasks.variables import empty_block, measured_variables

FOLDER = "judgements"

logger = logging.getLogger(__name__)

_kept: dict[tuple[Location, str], Engine] = {}
"""The last engine: one network a worker, whatever the number of its tasks."""


class Delivered(BaseModel):
    """What one metric stored of a shard: objects by key, and a digest over what was judged, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    objects: dict[str, StoredObject]


class Judgement(Record):
    """What metrics, by title, have stored of one shard."""

    folder = FOLDER

    metrics: dict[str, Delivered]
    seconds: float

    @property
    def objects(self) -> dict[str, StoredObject]:
        return {key: stored for delivered in self.metrics.values() for key, stored in delivered.objects.items()}


def measure(metrics: Sequence[MetricConfig], engine: Engine, plan: Plan) -> tuple[Measure, ...]:
    """Try metrics on noise, and note what each will store.

    Raises
    ------
    ValueError
        If one has no meaning on the network, or lacks masks or other maps to compare with.
    """
    if not metrics:
        return ()
    engine = _of_maps(engine)
    shape = (2, plan.model.channels, *plan.model.input_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ids = ["noise-0", "noise-1"]
    masks = torch.ones(2, *plan.model.input_shape, dtype=torch.bool) if plan.masks else None
    maps = engine.explain(noise, ids, masks).maps.cpu()
    spacing = torch.ones(2, plan.model.spatial_dims)
    scores = evaluate(engine, metrics, noise, ids, maps, masks, spacing)
    return tuple(
        Measure(metric=metric, companions=tuple(score.companions), curves=tuple(score.curves), points=score.points)
        for metric, score in zip(metrics, scores, strict=True)
    )


def add_metrics(output: Location, metrics: Sequence[MetricConfig]) -> Plan:
    """Promise metrics of a finished output; return its new plan, which is written.

    Parameters
    ----------
    metrics
        None: all that need neither masks that are not there, nor other maps, nor to explain every image anew.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`.
    ValueError
        If it is not finished, holds no maps, or one of the metrics cannot be computed.
    """
    plan = Plan.read(output)
    if not plan.maps:
        raise ValueError(f"output {output} holds no maps to judge: add explainers with `run --extend`")
    left = len(plan.shards) - len(delivered(output, plan))
    if left:
        raise ValueError(f"{left} of {len(plan.shards)} shards of {output} are not delivered: finish the run first")
    engine = _engine(output, plan)
    asked = tuple(metrics) or tuple(metric for metric in standard() if _applies(metric, engine, plan))
    known = {measured.metric for measured in plan.metrics}
    new = measure([metric for metric in asked if metric not in known], engine, plan)
    plan = plan.model_copy(update={"metrics": with_metrics(plan.metrics, new)})
    if new:
        plan.write(output, manifest.read(output))
    return plan


def _applies(metric: Metric, engine: Engine, plan: Plan) -> bool:
    if metric.needs_others or metric.explains_anew or (metric.needs_masks and not plan.masks):
        return False
    try:
        metric.check(engine.network)
    except ValueError:
        return False
    return True


def judge_shards(output: Location, shards: Sequence[int], check: Callable[[], None] = lambda: None) -> None:
    """Compute the metrics of the plan for shards that are delivered; those that have them are left alone.

    Parameters
    ----------
    check
        Called before every shard; raises if nobody wants the work any more.
    """
    plan = Plan.read(output)
    if not plan.metrics:
        return
    commits, judgements = Commit.read(output, shards), Judgement.read(output, shards)
    for index, commit in commits.items():
        left = lacking(plan, commit, judgements.get(index))
        if commit.is_whole(plan) and left:
            check()
            _judge(output, plan, plan.shards[index], commit, left, judgements.get(index))


def unjudged(output: Location, plan: Plan, commits: Mapping[int, Commit], sizes: Mapping[str, int]) -> list[int]:
    """Find the delivered shards that lack metrics of the plan, or whose stored metrics are not all there.

    Parameters
    ----------
    sizes
        Of every file of the output.
    """
    if not plan.metrics:
        return []
    judgements = Judgement.read(output, commits)
    return [
        shard
        for shard, commit in commits.items()
        if commit.is_whole(plan)
        and (
            lacking(plan, commit, judgements.get(shard))
            or any(sizes.get(f"{NAME}/{key}") != stored.size for key, stored in judgements[shard].objects.items())
        )
    ]


def withdraw_judgement(output: Location, shard: int) -> None:
    """Take back what is said of a shard: it will be judged again."""
    Judgement.location(output, shard).remove()


def lacking(plan: Plan, commit: Commit, judgement: Judgement | None) -> list[Measure]:
    """Find the metrics that are not computed from what the commit speaks of."""
    known = {title: delivered.digest for title, delivered in judgement.metrics.items()} if judgement else {}
    digests = _digests(plan, commit, plan.metrics)
    return [measured for measured in plan.metrics if known.get(title := measured.metric.title) != digests[title]]


def keys(plan: Plan, shard: Shard) -> list[str]:
    """Keys of the objects that hold metrics of a shard."""
    return list(_keys(plan, shard, plan.metrics).values())


def _judge(
    output: Location, plan: Plan, shard: Shard, commit: Commit, left: Sequence[Measure], before: Judgement | None
) -> None:
    """Compute and store the metrics that are left, and record them beside those that there are."""
    began = time.perf_counter()
    ids = [entry.id for entry in manifest.read(output, [shard.index])]
    stored = _stored(output, plan, shard, commit)
    explained = np.array(commit.status) == EXPLAINED
    found = empty_block(measured_variables(plan, left), shard.images)
    engine = _engine(output, plan)
    for number, rows in enumerate(shard.batches):
        delivered = [row for row in rows if explained[row] and shard.delivering[row] == number]
        if delivered:
            # What is not explained leaves its place to another image, so that the batch keeps its size.
            there = [row if explained[row] else delivered[0] for row in rows]
            places = [rows.index(row) for row in delivered]
            for name, values in _scores(engine, plan, left, stored, ids, there).items():
                found[name][delivered] = values[places]
    wanted = {measured.metric.title for measured in plan.metrics}
    kept = {title: known for title, known in (before.metrics if before else {}).items() if title in wanted}
    digests = _digests(plan, commit, left)
    new = {
        (title := measured.metric.title): Delivered(
            digest=digests[title], objects=_write(output, plan, shard, measured, found)
        )
        for measured in left
    }
    Judgement(shard=shard.index, metrics=kept | new, seconds=time.perf_counter() - began).write(output)
    logger.info("shard %d judged: %d images", shard.index, shard.images)


def _stored(output: Location, plan: Plan, shard: Shard, commit: Commit) -> Block:
    """Read everything that is stored of a shard, maps of all explainers together.

    Raises
    ------
    OSError
        If any of it is missing or damaged.
    """
    blocks = []
    for part, promised in sorted(commit.parts.items()):
        block = read_part(output, plan, shard, part, promised, shard.images)
        if block is None:
            raise OSError(f"shard {shard.index} of {output} is damaged: `cohortlens verify --repair` mends it")
        blocks.append(block)
    maps = [block["attribution"] for block in blocks if "attribution" in block]
    return {**blocks[0], "attribution": np.concatenate(maps, axis=2)}


def _scores(
    engine: Engine, plan: Plan, left: Sequence[Measure], stored: Block, ids: Sequence[str], rows: Sequence[int]
) -> dict[str, NDArray[np.floating]]:
    """Judge some rows: values by variable."""
    scores = evaluate(
        engine,
        [measured.metric for measured in left],
        _inputs(plan, stored["image"][rows]),
        [ids[row] for row in rows],
        torch.from_numpy(stored["attribution"][rows]),
        torch.from_numpy(stored["mask"][rows] == 1) if plan.masks else None,
        spacing_of(torch.from_numpy(stored["affine"][rows]), plan.model.spatial_dims),
    )
    found = {}
    for measured, score in zip(left, scores, strict=True):
        found[measured.variable] = score.value
        found |= {measured.companion(name): values for name, values in score.companions.items()}
        found |= {measured.curve(name): values for name, values in score.curves.items()}
    return {name: values.numpy() for name, values in found.items()}


def _write(output: Location, plan: Plan, shard: Shard, measured: Measure, block: Block) -> dict[str, StoredObject]:
    objects = {}
    for name, key in _keys(plan, shard, [measured]).items():
        values = block[name]
        data = encode_chunk(pad(values, (plan.images_per_shard, *values.shape[1:]), np.nan))
        (output / NAME / key).write(data)
        objects[key] = StoredObject(sha256=hashlib.sha256(data).hexdigest(), size=len(data))
    return objects


def _keys(plan: Plan, shard: Shard, measures: Sequence[Measure]) -> dict[str, str]:
    """Key of the object of each variable."""
    return {
        name: "/".join([name, "c", str(shard.index), *["0"] * len(variable.dims)])
        for name, variable in measured_variables(plan, measures).items()
    }


def _digests(plan: Plan, commit: Commit, measures: Sequence[Measure]) -> dict[str, str]:
    """SHA-256 over what a shard's metrics, by title, are computed from, and how."""
    judged = hashlib.sha256()
    for known in (
        {key: stored.sha256 for key, stored in commit.objects.items()},
        commit.status,
        [plan.part_digests[part] for part in sorted(commit.parts)],
    ):
        judged.update(json.dumps(known, sort_keys=True).encode())
    found = {}
    for measured in measures:
        digest = judged.copy()
        digest.update(json.dumps(measured.model_dump(mode="json"), sort_keys=True).encode())
        found[measured.metric.title] = digest.hexdigest()
    return found


def _engine(output: Location, plan: Plan) -> Engine:
    if (output, plan.digest) not in _kept:
        _kept.clear()
        device = "cuda" if torch.cuda.is_available() else "cpu"
        network = build(plan.model, plan.model.weights.read(), device)
        background = _background(output, plan) if plan.background else None
        _kept[output, plan.digest] = _of_maps(
            Engine(network, plan.explainers, plan.target, plan.batch_size, background)
        )
    return _kept[output, plan.digest]


def _background(output: Location, plan: Plan) -> Tensor:
    """The images that explainers compare with, as they are stored."""
    rows = [row for row, entry in enumerate(manifest.read(output)) if entry.id in plan.background]
    shards = sorted({row // plan.images_per_shard for row in rows})
    images: dict[int, NDArray[np.float32]] = {}
    for index, commit in Commit.read(output, shards).items():
        block = read_part(output, plan, plan.shards[index], 0, commit.parts[0], plan.shards[index].images)
        if block is not None:
            start = plan.shards[index].start
            images |= {row: block["image"][row - start] for row in rows if row in range(start, plan.shards[index].stop)}
    if len(images) < len(rows):
        raise OSError(f"background images of {output} are not delivered, or damaged: run again, or verify --repair")
    return _inputs(plan, np.stack([images[row] for row in rows]))


def _inputs(plan: Plan, images: NDArray[Any]) -> Tensor:
    preprocessing = Preprocessing(plan.cohort.preprocessing)
    return stack([preprocessing.network_input(torch.from_numpy(image)) for image in images])


def _of_maps(engine: Engine) -> Engine:
    """The same engine for the explainers that make maps."""
    explainers = [explainer for explainer in engine.explainers if explainer.makes_map]
    return Engine(engine.network, explainers, engine.target, engine.batch_size, engine.background)
