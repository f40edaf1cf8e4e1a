"""The place of one file in the grid of another."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.grids import index_matrix
from tasks.cohort.reading import Unreadable


def between(
    here: NDArray[np.float64], there: NDArray[np.float64], space: Sequence[int], name: str
) -> NDArray[np.float64]:
    """Compute the matrix from indices of one grid to those of another, as `models.grids.index_matrix` does.

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
    return index_matrix(here, there, space)
