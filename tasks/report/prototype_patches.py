"""Patches of the cohort that are most similar to each prototype of the network, each marked in its image."""

from collections.abc import Iterator
from functools import partial

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.results import PrototypePatches
from tasks.plan.plan import Plan
from tasks.report.anatomy import space_of
from tasks.report.numbers import number
from tasks.report.shown import Group, Shown, show_alone

_PROTOTYPES = 24
_PATCHES = 5
"""The numbers of prototypes, and of patches of each, that are shown."""

_SIDE = 1 / 6
"""The side of the square that marks a patch, as a part of the image's longest side."""


def patches_of_prototypes(plan: Plan, dataset: xr.Dataset, rows: NDArray[np.intp]) -> list[Group]:
    """Draw the images of the first patches of the first prototypes, for each result of the plan.

    Parameters
    ----------
    dataset
        The explained images.
    rows
        ``(image,)``, the row of each in the store.
    """
    results = [planned.result for planned in plan.results if isinstance(planned.result, PrototypePatches)]
    return [
        Group(result.title, str(name), list(_patches(result, dataset.sel({result.of: name}), dataset, rows)))
        for result in results
        for name in dataset[result.of].values[:_PROTOTYPES]
        if len(rows)
    ]


def _patches(result: PrototypePatches, own: xr.Dataset, dataset: xr.Dataset, rows: NDArray[np.intp]) -> Iterator[Shown]:
    parts = (own[f"{result.prefix}_{part}"].values[:_PATCHES] for part in ("image", "similarity", "place"))
    for row, similarity, place in zip(*parts, strict=True):
        if row >= 0:
            about = f"similarity {number(similarity, '.2f')}"
            yield show_alone(dataset, rows, int(row), about, partial(_around, place=place))


def _around(image: xr.Dataset, place: NDArray[np.floating]) -> xr.DataArray:
    """Mark the places of a cube around a place, which is outlined as a mask is."""
    space = space_of(image)
    half = max(image.sizes[dim] for dim in space) * _SIDE / 2
    near = np.ix_(*(np.abs(np.arange(image.sizes[dim]) - at) <= half for dim, at in zip(space, place, strict=True)))
    marked = np.zeros([image.sizes[dim] for dim in space], np.uint8)
    marked[near] = 1
    return xr.DataArray(marked, dims=space)
