"""Two grids in one patient: the matrix from one to the other, values by nearest neighbour, and the distance between."""

from collections.abc import Sequence
from itertools import product
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

Value = TypeVar("Value", np.uint8, np.int32)

_SAME = 1e-3
"""Grids that differ by less than this share of a voxel are the same; headers keep places in single precision."""

_TIE = 1e-6
"""Places half-way between two voxels, as halving makes them, go to the second one, whatever the rounding error."""


_TURNED = 1e-9
"""Axes of two grids are parallel if no place moves across by more than this share of a voxel: far less than a tie."""


def as_volume(shape: Sequence[int]) -> tuple[int, ...]:
    """Take a picture for a volume of one slice."""
    return (*[1] * (3 - len(shape)), *shape)


def index_matrix(here: NDArray[np.float64], there: NDArray[np.float64], space: Sequence[int]) -> NDArray[np.float64]:
    """Compute the matrix from indices of one grid to those of another; whole numbers where they tell the same places.

    Parameters
    ----------
    here, there
        ``(4, 4)`` index to RAS mm of the two grids; that of the second is not singular.
    space
        Sides of the first.
    """
    matrix: NDArray[np.float64] = np.linalg.inv(there) @ here
    whole = np.rint(matrix)
    return whole if np.abs((matrix - whole) @ corners(space)).max() < _SAME else matrix


def nearest(
    values: NDArray[Value], to_values: NDArray[np.float64], shape: Sequence[int], outside: int = 0
) -> NDArray[Value]:
    """Take values to another grid, by nearest neighbour.

    Parameters
    ----------
    values
        ``([z,] y, x)``.
    to_values
        ``(4, 4)`` index of the grid to index (z, y, x) of the values.
    shape
        The grid's sides; one of two is that of a picture, whose index has a first axis more.
    outside
        The value of places that lie outside.
    """
    found: NDArray[Value]
    there = as_volume(values.shape)
    if there == as_volume(shape) and np.abs((to_values - np.eye(4)) @ corners(shape)).max() < _SAME:
        return values.copy().reshape(tuple(shape))
    across = to_values[:3, :3] - np.diag(np.diag(to_values)[:3])
    if np.abs(across @ corners(shape)[:3]).max() < _TURNED:
        found = _by_axis(values.reshape(there), to_values, as_volume(shape), outside)
        return found.reshape(tuple(shape))
    found = ndimage.affine_transform(
        values.reshape(there),
        to_values[:3, :3],
        to_values[:3, 3] + _TIE,
        as_volume(shape),
        output=values.dtype,
        order=0,
        mode="grid-constant",  # `constant` would lose the outer half of the voxels at the edge
        cval=outside,
    )
    return found.reshape(tuple(shape))


def _by_axis(
    values: NDArray[Value], to_values: NDArray[np.float64], shape: Sequence[int], outside: int
) -> NDArray[Value]:
    """Look up each axis by itself, as scipy looks up each voxel, where the axes of both grids are parallel."""
    for axis, (side, size) in enumerate(zip(values.shape, shape, strict=True)):
        place = np.floor(to_values[axis, axis] * np.arange(size) + (to_values[axis, 3] + _TIE) + 0.5)
        values = values.take(np.clip(place, 0, side - 1).astype(np.intp), axis)
        values[(slice(None),) * axis + ((place < 0) | (place >= side),)] = outside
    return values


def corners(space: Sequence[int]) -> NDArray[np.float64]:
    """List the indices of a grid's outermost voxels: ``(4, 8)``."""
    return np.array([(*corner, 1.0) for corner in product(*((0, side - 1) for side in as_volume(space)))]).T


def centres_apart(
    here: NDArray[np.float64], space: Sequence[int], there: NDArray[np.float64], other: Sequence[int]
) -> float:
    """Measure the mm from the centre of one grid to that of another."""
    centres = [
        affine @ [*((side - 1) / 2 for side in as_volume(shape)), 1]
        for affine, shape in ((here, space), (there, other))
    ]
    return float(np.linalg.norm(centres[0] - centres[1]))
