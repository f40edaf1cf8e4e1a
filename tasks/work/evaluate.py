"""Metrics and uncertainty of shards: computed from what is stored of them, and recorded as their delivery is.

Images, masks and maps are taken from the store, and neither the cohort nor the run's memory is asked: a value is the
same whenever it is computed.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import xarray as xr
from numpy.typing import NDArray
from torch import Tensor

from models.explainers.base import MAPS
from models.metrics.evaluate import as_explained, evaluate, spacing_of
from models.outputs import Computed
from models.prediction import AFFINE, IMAGE, MASK, RECORD, TARGET_CLASS
from models.uncertainty import ask_members
from tasks import telemetry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedMetric, PlannedUncertainty
from tasks.plan.shards import Shard
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.objects import NAME, Piece, Stored, open_shard, pieces, write
from tasks.store.record import Delivered, ShardRecord, StoredObject
from tasks.store.rows import Rows
from tasks.store.template import EXPLAINED, open_store
from tasks.store.variables import variables
from tasks.work.engines import Engines, PlanEngines
from tasks.work.images import stack
from tasks.work.other_outputs import maps_of

Planned = PlannedMetric | PlannedUncertainty

logger = logging.getLogger(__name__)


class Evaluation(ShardRecord):
    """The record of one shard's metrics and uncertainty, by the stem of their outputs' names."""

    folder = "evaluations"

    delivered: dict[str, Delivered]
    seconds: float

    @property
    def objects(self) -> dict[str, StoredObject]:
        return {key: stored for one in self.delivered.values() for key, stored in one.objects.items()}


def evaluate_shards(
    output: Location, shards: Sequence[int], engines: Engines, check: Callable[[], None] = lambda: None
) -> None:
    """Compute metrics and uncertainty for shards that are delivered; those that have them are left alone.

    Parameters
    ----------
    engines
        The engines of this process.
    check
        Called before every shard; raises if nobody wants the work any more.
    """
    plan = Plan.read(output)
    if not plan.evaluated:
        return
    commits, evaluations = Commit.read(output, shards), Evaluation.read(output, shards)
    left = {
        index: planned
        for index, commit in commits.items()
        if commit.is_whole(plan) and (planned := not_evaluated(plan, commit, evaluations.get(index)))
    }
    if not left:
        return
    with engines.turn:
        own = engines.of(output, plan)
        for (index, planned), entries in zip(left.items(), manifest.read_each(output, left), strict=True):
            check()
            ids = [entry.id for entry in entries]
            _evaluate(own, output, plan, plan.shards[index], ids, commits[index], planned, evaluations.get(index))


def unevaluated(output: Location, plan: Plan, commits: Mapping[int, Commit], sizes: Mapping[str, int]) -> list[int]:
    """Find the delivered shards that lack metrics of the plan, or whose stored ones are not all there.

    Parameters
    ----------
    sizes
        Of every file of the output.
    """
    if not plan.evaluated:
        return []
    evaluations = Evaluation.read(output, commits)
    return [
        shard
        for shard, commit in commits.items()
        if commit.is_whole(plan)
        and (
            not_evaluated(plan, commit, evaluations.get(shard))
            or any(sizes.get(f"{NAME}/{key}") != stored.size for key, stored in evaluations[shard].objects.items())
        )
    ]


def forget(output: Location, shard: int) -> None:
    """Take back what is said of a shard: it will be evaluated again."""
    (output / Evaluation.folder / f"{shard:06d}.json").remove()


def erase_evaluation(output: Location, plan: Plan, shard: Shard) -> None:
    """Delete what was evaluated of a shard, which may tell of images that were withdrawn."""
    forget(output, shard.index)
    for piece in evaluated_pieces(plan, shard):
        (output / NAME / piece.key).remove()


def evaluated_pieces(plan: Plan, shard: Shard) -> Iterator[Piece]:
    """Cut the arrays of metrics and uncertainty into the objects of a shard."""
    return pieces(plan, variables(plan, [one for planned in plan.evaluated for one in planned.outputs]), shard)


def not_evaluated(plan: Plan, commit: Commit, evaluation: Evaluation | None) -> list[Planned]:
    """Find what is planned and has not been computed from what the commit speaks of."""
    known = {name: delivered.digest for name, delivered in evaluation.delivered.items()} if evaluation else {}
    digests = _digests(plan, commit, plan.evaluated)
    return [planned for planned in plan.evaluated if known.get(name := stem(planned)) != digests[name]]


def stem(planned: Planned) -> str:
    """Name the beginning that the names of its outputs share."""
    return planned.metric.variable if isinstance(planned, PlannedMetric) else planned.uncertainty.variable


def _evaluate(
    engines: PlanEngines,
    output: Location,
    plan: Plan,
    shard: Shard,
    ids: list[str],
    commit: Commit,
    left: Sequence[Planned],
    before: Evaluation | None,
) -> None:
    """Compute and store what is left, and record it beside what there is."""
    began, halvings = time.perf_counter(), engines.whole.halvings
    stored = open_shard(output, plan, shard, commit.objects, (IMAGE, AFFINE, MASK, RECORD, TARGET_CLASS, MAPS))
    others = {
        planned.title: [open_store(other) for other in planned.others]
        for planned in left
        if isinstance(planned, PlannedMetric) and planned.others
    }
    explained = np.array(commit.status) == EXPLAINED
    described = variables(plan, [one for planned in left for one in planned.outputs])
    found = Rows(plan, described, shard.images)
    for number, rows in enumerate(shard.batches):
        delivered = [row for row in rows if explained[row] and shard.delivering[row] == number]
        if delivered:
            # What is not explained leaves its place to another image, so that the batch keeps its size.
            there = [row if explained[row] else delivered[0] for row in rows]
            batch = StoredBatch.take(plan, stored, ids, there)
            beside = {title: batch.maps_beside(plan, stores) for title, stores in others.items()}
            values = _values(engines, left, batch, beside)
            for row in delivered:
                found.put(row, {name: of_batch[rows.index(row)] for name, of_batch in values.items()})
    wanted = {stem(planned) for planned in plan.evaluated}
    kept = {name: known for name, known in (before.delivered if before else {}).items() if name in wanted}
    digests = _digests(plan, commit, left)
    new = {}
    for planned in left:
        objects = write(output / NAME, pieces(plan, variables(plan, planned.outputs), shard), found)
        new[stem(planned)] = Delivered(digest=digests[stem(planned)], objects=objects)
    seconds = time.perf_counter() - began
    Evaluation(shard=shard.index, delivered=kept | new, seconds=seconds).write(output)
    telemetry.SECONDS.labels("evaluate").inc(seconds)
    telemetry.HALVINGS.inc(engines.whole.halvings - halvings)
    logger.info("shard %d evaluated: %d images", shard.index, shard.images, extra={"shard": shard.index})


@dataclass(frozen=True)
class StoredBatch:
    """Some images of a shard as they are stored, and as the network takes them."""

    images: Tensor
    ids: list[str]
    maps: Tensor
    masks: Tensor | None
    spacing: Tensor
    target_class: Tensor
    record: Tensor | None

    @classmethod
    def take(cls, plan: Plan, stored: Stored, ids: Sequence[str], rows: Sequence[int]) -> "StoredBatch":
        block = stored.rows(rows)
        return cls(
            images=_inputs(plan, block[IMAGE]),
            ids=[ids[row] for row in rows],
            maps=torch.from_numpy(block[MAPS]) if plan.maps else torch.empty(0),
            masks=torch.from_numpy(block[MASK] == 1) if plan.masks else None,
            spacing=spacing_of(torch.from_numpy(block[AFFINE]), len(plan.grid)),
            target_class=torch.from_numpy(block[TARGET_CLASS]).long(),
            record=torch.from_numpy(block[RECORD]) if plan.cohort.record else None,
        )

    def maps_beside(self, plan: Plan, stores: Sequence[xr.Dataset]) -> NDArray[np.float32]:
        """The maps that other outputs have of the images: ``(other, image, target, explainer, *space)``."""
        return np.stack([maps_of(store, plan, self.ids, self.target_class.numpy()) for store in stores])


def _inputs(plan: Plan, images: NDArray[Any]) -> Tensor:
    """Make what the network takes, ``(image, channel, *space)``, of images as they are stored."""
    preprocessing = plan.cohort.make_preprocessing()
    return stack([preprocessing.network_input(torch.from_numpy(image)) for image in images])


def _values(
    engines: PlanEngines,
    left: Sequence[Planned],
    batch: StoredBatch,
    others: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.floating]]:
    """Compute what is left of a batch: values by output.

    Parameters
    ----------
    others
        By metric, the maps of other outputs: ``(other, image, target, explainer, *space)``.
    """
    found: Computed = {}
    metrics = [planned.metric for planned in left if isinstance(planned, PlannedMetric)]
    alone = [metric for metric in metrics if metric.title not in others]
    for together in (alone, *([metric] for metric in metrics if metric.title in others)):
        if not together:
            continue
        beside = others.get(together[0].title)
        values = evaluate(
            engines.whole,
            together,
            batch.images,
            batch.ids,
            batch.maps,
            batch.masks,
            batch.spacing,
            None if beside is None else torch.from_numpy(beside),
            batch.target_class,
            batch.record,
        )
        for metric, own in zip(together, values, strict=True):
            found |= metric.by_output(own)
    for planned in left:
        if isinstance(planned, PlannedUncertainty):
            kind = planned.uncertainty
            asked = as_explained(engines.whole, batch.images, batch.ids, batch.masks, batch.target_class, batch.record)
            found |= kind.by_output(ask_members(engines.whole, engines.members(kind), asked, kind.explainers))
    return {name: values.numpy() for name, values in found.items()}


def _digests(plan: Plan, commit: Commit, planned: Sequence[Planned]) -> dict[str, str]:
    """By the stem of the names, SHA-256 over what is computed, from what, and how."""
    common = hashlib.sha256()
    for known in (
        {key: stored.sha256 for key, stored in commit.objects.items()},
        commit.status,
        [plan.part_digests[part] for part in sorted(commit.parts)],
    ):
        common.update(json.dumps(known, sort_keys=True).encode())
    found = {}
    for one in planned:
        digest = common.copy()
        digest.update(json.dumps(one.model_dump(mode="json", exclude={"outputs"}), sort_keys=True).encode())
        found[stem(one)] = digest.hexdigest()
    return found
