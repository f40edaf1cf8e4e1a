"""The fit stage: artefacts that are computed from some images before any image is explained, and stored once."""

import logging
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.errors import ConfigurationError
from models.fits import Fit
from tasks.cohort.entry import Entry
from tasks.cohort.reading import Unreadable
from tasks.cohort.sources import Find
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedFit, StoredObject
from tasks.plan.shards import digest_of
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.objects import NAME, Piece, open_shard, pieces, read
from tasks.store.record import Delivered, NamedRecord
from tasks.store.template import EXPLAINED
from tasks.store.variables import variables
from tasks.work.engines import Engines
from tasks.work.images import read_images, stack

logger = logging.getLogger(__name__)


class FitRecord(NamedRecord):
    """The record of an artefact."""

    folder = "fits"


def fit_digest(plan: Plan, kind: Fit, entries: Sequence[Entry]) -> str:
    """SHA-256 over what an artefact is computed from, and how: the images in `entries`, and the network."""
    return digest_of(
        {
            "fit": kind.model_dump(mode="json"),
            "images": [(entry.id, entry.digest) for entry in entries],
            "model": plan.deciding_model,
            "cohort": plan.deciding_cohort,
            "precision": plan.precision,
        }
    )


def unfitted(output: Location, plan: Plan, sizes: Mapping[str, int] | None = None) -> list[PlannedFit]:
    """Find the artefacts that are not stored as the plan and their records say.

    Parameters
    ----------
    sizes
        Of every file of the output; None: the artefacts' objects are not looked at.
    """
    records = FitRecord.read_keys(output, [planned.title for planned in plan.fits])

    def is_there(planned: PlannedFit) -> bool:
        record = records.get(planned.title)
        return (
            record is not None
            and record.delivered.digest == planned.digest
            and record.delivered.objects == planned.objects
            and (sizes is None or all(sizes.get(f"{NAME}/{key}") == one.size for key, one in planned.objects.items()))
        )

    return [planned for planned in plan.fits if not is_there(planned)]


def fit(output: Location, find: Find, engines: Engines, check: Callable[[], None] = lambda: None) -> Plan:
    """Compute the artefacts that are missing, and store them; return the plan, which names them then.

    Parameters
    ----------
    check
        Called before anything is stored; raises if nobody wants the work any more.

    Raises
    ------
    ConfigurationError
        If an artefact that was stored before does not come out as it was.
    """
    plan = Plan.read(output)
    planned_now = []
    lacking = {planned.title for planned in unfitted(output, plan, output.sizes() if plan.fits else {})}
    for planned in plan.fits:
        if planned.title not in lacking:
            planned_now.append(planned)
            continue
        encoded = _stored(output, plan, planned) or _computed(output, plan, planned, find, engines)
        objects = {key: StoredObject.of(data) for key, data in encoded.items()}
        if planned.objects and objects != planned.objects:
            raise ConfigurationError(
                f"the artefact {planned.title!r} of {output} is damaged, and computed anew it is another, so that "
                "other maps would come of it: put back the versions that it was made with, or --overwrite"
            )
        check()
        _store(output, encoded)
        FitRecord(title=planned.title, delivered=Delivered(digest=planned.digest, objects=objects)).write(output)
        planned_now.append(planned.model_copy(update={"objects": objects}))
        logger.info("artefact %s fitted on %d images", planned.title, len(planned.images))
    if tuple(planned_now) != plan.fits:
        check()
        plan = plan.model_copy(update={"fits": tuple(planned_now)})
        plan.write(output, manifest.load(output))
    return plan


def forget(output: Location, planned: PlannedFit) -> None:
    """Delete an artefact, and what is recorded of it."""
    FitRecord.location(output, planned.title).remove()
    for key in planned.objects:
        (output / NAME / key).remove()


def _store(output: Location, encoded: Mapping[str, bytes]) -> None:
    for key, data in encoded.items():
        (output / NAME / key).write(data)


def _stored(output: Location, plan: Plan, planned: PlannedFit) -> dict[str, bytes] | None:
    """Read an artefact of which the record alone is lost."""
    return read(output, _pieces(plan, planned), planned.objects) if planned.objects else None


def _computed(output: Location, plan: Plan, planned: PlannedFit, find: Find, engines: Engines) -> dict[str, bytes]:
    """Compute an artefact, and encode each object that holds it."""
    inputs = _inputs(output, plan, planned, find)
    with engines.turn:
        found = planned.fit.compute(engines.network(plan), inputs)
    block = {name: values.cpu().numpy() for name, values in found.items()}
    return {piece.key: piece.encode(block) for piece in _pieces(plan, planned)}


def _pieces(plan: Plan, planned: PlannedFit) -> list[Piece]:
    return list(pieces(plan, variables(plan, planned.outputs), None))


def _inputs(output: Location, plan: Plan, planned: PlannedFit, find: Find) -> Tensor:
    """Take the images from the store where they are delivered, else from the cohort: both are the same."""
    preprocessing = plan.cohort.make_preprocessing()
    rows = {entry.id: (row, entry) for row, entry in enumerate(manifest.load(output)) if entry.id in planned.images}
    inputs = {
        id: preprocessing.network_input(torch.from_numpy(image))
        for id, image in _delivered(output, plan, {id: row for id, (row, _) in rows.items()}).items()
    }
    left = [entry for id, (_, entry) in rows.items() if id not in inputs]
    images = read_images(plan, left, preprocessing, find)
    for entry, image in zip(left, images, strict=True):
        if isinstance(image, Unreadable):
            raise ConfigurationError(
                f"the image {entry.id!r}, which the artefact {planned.title!r} is computed from, cannot be read any "
                f"more ({image}): restore it, or run again with a new output"
            )
        inputs[entry.id] = image.prepared.network_input
    return stack([inputs[id] for id in planned.images])


def _delivered(output: Location, plan: Plan, rows: Mapping[str, int]) -> dict[str, NDArray[np.float32]]:
    found: dict[str, NDArray[np.float32]] = {}
    shards = sorted({row // plan.images_per_shard for row in rows.values()})
    for index, commit in Commit.read(output, shards).items():
        shard = plan.shards[index]
        own = {id: row - shard.start for id, row in rows.items() if shard.start <= row < shard.stop}
        there = {id: row for id, row in own.items() if commit.status[row : row + 1] == (EXPLAINED,)}
        if there and commit.is_whole(plan):
            stored = open_shard(output, plan, shard, commit.objects, ["image"])
            found |= dict(zip(there, stored.rows([*there.values()])["image"], strict=True))
    return found
