"""The network that metrics and uncertainty ask about stored maps, built of what an output holds."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.engine import Engine
from models.network import build
from models.preprocessing import Preprocessing
from models.uncertainty import Member, Uncertainty
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.prepare.precision import check_instructions
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.store import read_part
from tasks.work.batches import device
from tasks.work.images import read_background, stack


@dataclass
class Asked:
    """The network that is asked, by the explainers that make maps; and its members by kind, made when needed."""

    engine: Engine
    _members: dict[str, list[Member]] = field(default_factory=dict)

    def members(self, uncertainty: Uncertainty) -> list[Member]:
        if uncertainty.title not in self._members:
            self._members[uncertainty.title] = uncertainty.members(self.engine.network)
        return self._members[uncertainty.title]


_kept: dict[tuple[Location, str], Asked] = {}
"""What was asked last: one network a worker, whatever the number of its tasks."""


def asked_of(output: Location, plan: Plan, find: Find | None = None) -> Asked:
    """Build what is asked about an output, or take that which was built last."""
    if (output, plan.digest) not in _kept:
        _kept.clear()
        _kept[output, plan.digest] = Asked(engine_of(output, plan, find))
    return _kept[output, plan.digest]


def engine_of(output: Location, plan: Plan, find: Find | None = None) -> Engine:
    """Build the engine of the explainers that made the stored maps."""
    check_instructions(plan.precision, device())
    network = build(plan.model, plan.model.weights.read(), device(), plan.precision)
    background = _background(output, plan, find) if plan.background else None
    return Engine(network, plan.explainers, plan.target, plan.batch_size, background)


def _background(output: Location, plan: Plan, find: Find | None) -> Tensor:
    """The images that explainers compare with, as they are stored; in a run's course, as they lie in the cohort."""
    rows = [row for row, entry in enumerate(manifest.read(output)) if entry.id in plan.background]
    shards = sorted({row // plan.images_per_shard for row in rows})
    images: dict[int, NDArray[np.float32]] = {}
    for index, commit in Commit.read(output, shards).items():
        block = read_part(output, plan, plan.shards[index], 0, commit.parts[0], plan.shards[index].images)
        if block is not None:
            start = plan.shards[index].start
            images |= {row: block["image"][row - start] for row in rows if row in range(start, plan.shards[index].stop)}
    if len(images) < len(rows) and find:
        entries = manifest.read(output, ids=plan.background)
        ids, background = read_background(plan, entries, Preprocessing(plan.cohort.preprocessing), find)
        if background is not None and len(ids) == len(rows):
            return background
    if len(images) < len(rows):
        raise OSError(f"background images of {output} are not delivered, or damaged: run again, or verify --repair")
    return inputs_of(plan, np.stack([images[row] for row in rows]))


def inputs_of(plan: Plan, images: NDArray[Any]) -> Tensor:
    """What the network takes, ``(image, channel, *space)``, of images as they are stored."""
    preprocessing = Preprocessing(plan.cohort.preprocessing)
    return stack([preprocessing.network_input(torch.from_numpy(image)) for image in images])
