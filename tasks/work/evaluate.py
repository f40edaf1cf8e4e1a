"""Metrics and uncertainty of shards: computed from what is stored of them, and recorded as their delivery is.

Images, masks and maps are taken from the store, and neither the cohort nor the run's memory is asked: a value is the
same whenever it is computed.
"""

import hashlib
import json
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.metrics.evaluate import as_explained, evaluate, spacing_of
from models.uncertainty import Uncertainty, ask_members
from tasks import telemetry
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Measure, Plan
from tasks.plan.shards import Shard
from tasks.storage.location import Location
from tasks.store.commit import Commit, Record, StoredObject
from tasks.store.store import EXPLAINED, NAME, Block, read_part, write_measured
from tasks.store.variables import empty_block, measured_variables, stem, uncertainty_values
from tasks.work.engines import Asked, asked_of, inputs_of
from tasks.work.other_outputs import maps_of

FOLDER = "judgements"

logger = logging.getLogger(__name__)


class Delivered(BaseModel):
    """What one measure stored of a shard: objects by key, and a digest over what was judged, and how."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    objects: dict[str, StoredObject]


class Judgement(Record):
    """What measures, by the stem of their variables' names, have stored of one shard."""

    folder = FOLDER

    measures: dict[str, Delivered]
    seconds: float

    @property
    def objects(self) -> dict[str, StoredObject]:
        return {key: stored for delivered in self.measures.values() for key, stored in delivered.objects.items()}


def judge_shards(
    output: Location, shards: Sequence[int], check: Callable[[], None] = lambda: None, find: Find | None = None
) -> None:
    """Compute metrics and uncertainty for shards that are delivered; those that have them are left alone.

    Parameters
    ----------
    check
        Called before every shard; raises if nobody wants the work any more.
    find
        Where images of the cohort lie; needed while those of the background are not all delivered.
    """
    plan = Plan.read(output)
    if not plan.measures:
        return
    commits, judgements = Commit.read(output, shards), Judgement.read(output, shards)
    left = {
        index: measures
        for index, commit in commits.items()
        if commit.is_whole(plan) and (measures := lacking(plan, commit, judgements.get(index)))
    }
    if not left:
        return
    asked = asked_of(output, plan, find)
    for (index, measures), entries in zip(left.items(), manifest.read_each(output, left), strict=True):
        check()
        ids = [entry.id for entry in entries]
        _judge(asked, output, plan, plan.shards[index], ids, commits[index], measures, judgements.get(index))


def unjudged(output: Location, plan: Plan, commits: Mapping[int, Commit], sizes: Mapping[str, int]) -> list[int]:
    """Find the delivered shards that lack measures of the plan, or whose stored ones are not all there.

    Parameters
    ----------
    sizes
        Of every file of the output.
    """
    if not plan.measures:
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


def lacking(plan: Plan, commit: Commit, judgement: Judgement | None) -> list[Measure | Uncertainty]:
    """Find the measures that are not computed from what the commit speaks of."""
    known = {name: delivered.digest for name, delivered in judgement.measures.items()} if judgement else {}
    digests = _digests(plan, commit, plan.measures)
    return [measure for measure in plan.measures if known.get(name := stem(measure)) != digests[name]]


def _judge(
    asked: Asked,
    output: Location,
    plan: Plan,
    shard: Shard,
    ids: list[str],
    commit: Commit,
    left: Sequence[Measure | Uncertainty],
    before: Judgement | None,
) -> None:
    """Compute and store the measures that are left, and record them beside those that there are."""
    began, halvings = time.perf_counter(), asked.engine.halvings
    stored = _stored(output, plan, shard, commit)
    others = {
        measure.title: _others(plan, measure, ids, stored)
        for measure in left
        if isinstance(measure, Measure) and measure.others
    }
    explained = np.array(commit.status) == EXPLAINED
    found = empty_block(measured_variables(plan, left), shard.images)
    for number, rows in enumerate(shard.batches):
        delivered = [row for row in rows if explained[row] and shard.delivering[row] == number]
        if delivered:
            # What is not explained leaves its place to another image, so that the batch keeps its size.
            there = [row if explained[row] else delivered[0] for row in rows]
            places = [rows.index(row) for row in delivered]
            batch = Batch.take(plan, stored, ids, there)
            beside = {title: maps[:, there] for title, maps in others.items()}
            for name, values in _values(asked, left, batch, beside).items():
                if name in found:
                    found[name][delivered] = values[places]
    wanted = {stem(measure) for measure in plan.measures}
    kept = {name: known for name, known in (before.measures if before else {}).items() if name in wanted}
    digests = _digests(plan, commit, left)
    new = {
        (name := stem(measure)): Delivered(
            digest=digests[name], objects=write_measured(output, plan, shard, measure, found)
        )
        for measure in left
    }
    seconds = time.perf_counter() - began
    Judgement(shard=shard.index, measures=kept | new, seconds=seconds).write(output)
    telemetry.SECONDS.labels("judge").inc(seconds)
    telemetry.HALVINGS.inc(asked.engine.halvings - halvings)
    logger.info("shard %d judged: %d images", shard.index, shard.images, extra={"shard": shard.index})


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
    return blocks[0] | ({"attribution": np.concatenate(maps, axis=2)} if maps else {})


@dataclass(frozen=True)
class Batch:
    """Some images of a shard as they are stored, and as the network takes them."""

    images: Tensor
    ids: list[str]
    maps: Tensor
    masks: Tensor | None
    spacing: Tensor
    target_class: Tensor

    @classmethod
    def take(cls, plan: Plan, stored: Block, ids: Sequence[str], rows: Sequence[int]) -> "Batch":
        return cls(
            images=inputs_of(plan, stored["image"][rows]),
            ids=[ids[row] for row in rows],
            maps=torch.from_numpy(stored["attribution"][rows]) if plan.maps else torch.empty(0),
            masks=torch.from_numpy(stored["mask"][rows] == 1) if plan.masks else None,
            spacing=spacing_of(torch.from_numpy(stored["affine"][rows]), plan.model.spatial_dims),
            target_class=torch.from_numpy(stored["target_class"][rows]).long(),
        )


def _values(
    asked: Asked,
    measures: Sequence[Measure | Uncertainty],
    batch: Batch,
    others: Mapping[str, NDArray[np.float32]],
) -> dict[str, NDArray[np.floating]]:
    """Work out measures of a batch: values by variable.

    Parameters
    ----------
    others
        By metric, the maps of other outputs: ``(other, image, target, explainer, *space)``.
    """
    found: dict[str, Tensor] = {}
    metrics = [measure for measure in measures if isinstance(measure, Measure)]
    alone = [measure for measure in metrics if measure.title not in others]
    for together in (alone, *([measure] for measure in metrics if measure.title in others)):
        if not together:
            continue
        beside = others.get(together[0].title)
        scores = evaluate(
            asked.engine,
            [measure.metric for measure in together],
            batch.images,
            batch.ids,
            batch.maps,
            batch.masks,
            batch.spacing,
            None if beside is None else torch.from_numpy(beside),
            batch.target_class,
        )
        for measure, score in zip(together, scores, strict=True):
            found[measure.variable] = score.value
            found |= {measure.companion(name): values for name, values in score.companions.items()}
            found |= {measure.curve(name): values for name, values in score.curves.items()}
    for uncertainty in measures:
        if isinstance(uncertainty, Uncertainty):
            case = as_explained(asked.engine, batch.images, batch.ids, batch.masks, batch.target_class)
            spread = ask_members(asked.engine, asked.members(uncertainty), case, uncertainty.explainers)
            found |= uncertainty_values(uncertainty, spread)
    return {name: values.numpy() for name, values in found.items()}


def _others(plan: Plan, measure: Measure, ids: Sequence[str], stored: Block) -> NDArray[np.float32]:
    return np.stack([maps_of(other, plan, ids, stored["target_class"]) for other in measure.others])


def _digests(plan: Plan, commit: Commit, measures: Sequence[Measure | Uncertainty]) -> dict[str, str]:
    """SHA-256 over what a shard's measures, by the stem of their names, are computed from, and how."""
    judged = hashlib.sha256()
    for known in (
        {key: stored.sha256 for key, stored in commit.objects.items()},
        commit.status,
        [plan.part_digests[part] for part in sorted(commit.parts)],
    ):
        judged.update(json.dumps(known, sort_keys=True).encode())
    found = {}
    for measure in measures:
        digest = judged.copy()
        digest.update(json.dumps(measure.model_dump(mode="json"), sort_keys=True).encode())
        found[stem(measure)] = digest.hexdigest()
    return found
