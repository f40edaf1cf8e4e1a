"""Two grids in one patient: the matrix from one to the other, and how far they are apart."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from tasks.cohort.reading import Unreadable

SAME = 1e-3
"""Grids that differ by less than this share of a voxel are the same; headers keep places in single precision."""


def as_volume(shape: Sequence[int]) -> tuple[int, ...]:
    """Take a picture for a volume of one slice."""
    return (*[1] * (3 - len(shape)), *shape)


def between(
    here: NDArray[np.float64], there: NDArray[np.float64], space: Sequence[int], name: str
) -> NDArray[np.float64]:
    """Compute the matrix from indices of one grid to those of another; whole numbers where they tell the same places.

    Parameters
    ----------
    here, there
        ``(4, 4)`` index (z, y, x) to RAS mm of the two grids.
    space
        Sides of the first.
    name
        A name of what lies on the second.

    Raises
    ------
    Unreadable
        If the second affine is singular.
    """
    if not np.isfinite(there).all() or np.linalg.matrix_rank(there[:3, :3]) < 3:
        raise Unreadable(f"the affine of its {name} is singular, so that it has no place: mend its geometry")
    matrix: NDArray[np.float64] = np.linalg.inv(there) @ here
    whole = np.rint(matrix)
    return whole if np.abs((matrix - whole) @ corners(space)).max() < SAME else matrix


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
