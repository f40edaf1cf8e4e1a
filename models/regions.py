"""Relevance by region: maps of an image, summed over the regions that an atlas has on its grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.grids import centres_apart, index_matrix, nearest

Floats = NDArray[np.float64]

_MIDPLANE = 1e-3
"""Places that are less than these mm from the plane between left and right lie on neither side."""


class RegionFlag(IntFlag):
    """Oddities of the relevance of a map by region."""

    NO_GEOMETRY = 1
    NO_OVERLAP = 2
    OUTSIDE = 4


@dataclass(frozen=True)
class Atlas:
    """A label volume in patient space.

    Attributes
    ----------
    regions
        ``(z, y, x)`` int32, the number of the region at each place from 1 on; 0 where there is none.
    affine
        ``(4, 4)`` index (z, y, x) to RAS mm.
    """

    regions: NDArray[np.int32]
    affine: Floats

    def on(self, affine: Floats, grid: Sequence[int]) -> NDArray[np.int32] | None:
        """Look up the region at each place of a grid, by nearest neighbour; None where the atlas does not reach it.

        Parameters
        ----------
        affine
            ``(4, 4)`` index of the grid to RAS mm; one of a picture has a first axis more.
        grid
            The grid's sides.
        """
        found = nearest(self.regions, index_matrix(affine, self.affine, grid), grid, outside=-1)
        return np.maximum(found, 0) if (found >= 0).any() else None

    def distance(self, affine: Floats, grid: Sequence[int]) -> float:
        """Measure the mm from the centre of a grid to that of the atlas."""
        return centres_apart(affine, grid, self.affine, self.regions.shape)


class Relevance(NamedTuple):
    """Relevance of some maps by region; NaN of a map that is not finite, and of regions that the image has none of.

    Attributes
    ----------
    sum, mean
        ``(map, region)`` of the signed map.
    share
        ``(map, region)``, the part of the sum of magnitudes that lies in the region; NaN of a blank map.
    outside
        ``(map,)``, the part that lies in no region.
    laterality
        ``(map,)``, ``(left - right) / (left + right)`` of the magnitudes in regions; NaN where there are none.
    """

    sum: Floats
    mean: Floats
    share: Floats
    outside: Floats
    laterality: Floats


def relevance_by_region(maps: NDArray[np.floating], regions: NDArray[np.int32], right: Floats, count: int) -> Relevance:
    """Sum maps over regions.

    Parameters
    ----------
    maps
        ``(map, *grid)``.
    regions
        ``(*grid)``, the number of the region from 1 on, or 0.
    right
        ``(*grid)``, mm to the patient's right.
    count
        How many regions the atlas has.
    """
    side = np.where(np.abs(right) < _MIDPLANE, 0, np.where(right < 0, 1, 2))
    place = (3 * regions + side).ravel().astype(np.intp)
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    flat[~np.isfinite(flat).all(1)] = np.nan
    places = np.bincount(place, minlength=3 * count + 3).reshape(-1, 3).sum(1)[1:]
    signed, magnitude = _sums(flat, place, count), _sums(np.abs(flat), place, count)
    left, on_right = magnitude[:, 1:, 1].sum(1), magnitude[:, 1:, 2].sum(1)
    there = np.where(places > 0, 1.0, np.nan)
    with np.errstate(divide="ignore", invalid="ignore"):
        total = magnitude.sum((1, 2))
        sums = signed.sum(2)[:, 1:] * there
        return Relevance(
            sum=sums,
            mean=sums / places,
            share=magnitude.sum(2)[:, 1:] * there / total[:, None],
            outside=magnitude[:, 0].sum(1) / total,
            laterality=(left - on_right) / (left + on_right),
        )


def volume_by_region(regions: NDArray[np.int32], count: int) -> Floats:
    """Measure the part of a grid's places that each region has: ``(region,)``."""
    return np.bincount(regions.ravel(), minlength=count + 1)[1:] / regions.size


def towards_right(affine: Floats, grid: Sequence[int]) -> Floats:
    """Measure the mm of each place of a grid to the patient's right: ``(*grid)``."""
    steps = affine[0, 3 - len(grid) : 3]
    return np.asarray(affine[0, 3] + np.tensordot(steps, np.indices(grid), 1))


def _sums(flat: Floats, place: NDArray[np.intp], count: int) -> Floats:
    """Sum ``(map, place)`` over each region and side: ``(map, 1 + region, side)``."""
    summed = np.empty((len(flat), 3 * count + 3))
    for row, one in zip(summed, flat, strict=True):
        row[:] = np.bincount(place, weights=one, minlength=summed.shape[1])
    return summed.reshape(len(flat), count + 1, 3)
