"""Other outputs of the same images: the maps of other networks, to compare with."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from models.errors import ConfigurationError
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.commit import delivered


def check_comparable(plan: Plan, entries: Sequence[Entry], other: Location) -> str:
    """Check that an output holds the same maps of the same images; return a digest over what it has delivered.

    Raises
    ------
    FileNotFoundError
        If there is no run.
    ConfigurationError
        If it lacks shards, explainers, targets or classes, has another grid, or no image in common.
    """
    theirs = Plan.read(other)
    commits = delivered(other, theirs)
    if left := len(theirs.shards) - len(commits):
        raise ConfigurationError(
            f"{left} of {len(theirs.shards)} shards of {other} are not delivered: finish its run first"
        )
    if missing := [name for name in plan.maps if name not in theirs.maps]:
        raise ConfigurationError(f"{other} has no maps by {', '.join(missing)}: add them there with `run --extend`")
    for field, own, found in (
        ("grid", plan.grid, theirs.grid),
        ("classes", plan.model.classes, theirs.model.classes),
        ("target", plan.target, theirs.target),
    ):
        if own != found:
            raise ConfigurationError(f"{other} cannot be compared with: its {field} is {found!r}, here it is {own!r}")
    if not {entry.id for entry in entries} & {entry.id for entry in manifest.read(other)}:
        raise ConfigurationError(
            f"{other} has no image in common: ids are pseudonyms; run both with the same COHORTLENS_PSEUDONYM_KEY"
        )
    digests = sorted(f"{key} {stored.sha256}" for one in commits.values() for key, stored in one.objects.items())
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def maps_of(
    dataset: xr.Dataset, plan: Plan, ids: Sequence[str], target_class: NDArray[np.int32]
) -> NDArray[np.float32]:
    """Read the maps that the store of another output has of some images: ``(image, target, explainer, *space)``.

    NaN where it does not have the image, or explains another class than `target_class`, ``(image, target)``.
    """
    index = dataset.indexes["image_id"].get_indexer(pd.Index(ids))
    rows = dataset.isel(image_id=index.clip(0)).sel(explainer=list(plan.maps))
    maps: NDArray[np.float32] = rows["attribution"].values.copy()
    maps[index < 0] = np.nan
    maps[rows["target_class"].values != target_class] = np.nan
    return maps
