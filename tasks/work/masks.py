"""Masks on the model's grid, brought there by the geometry of mask and image, or by equal shapes without one."""

from collections.abc import Sequence
from itertools import product

import numpy as np
from numpy.typing import NDArray

from models.preprocessing import resample_mask
from tasks.cohort.reading import Decoded, Unreadable

_SAME_GRID = 1e-3
"""Grids that differ by less than this share of a voxel are the same; headers keep places in single precision."""


def on_grid(
    marked: NDArray[np.bool_], mask: Decoded, image: Decoded, to_source: NDArray[np.float64], shape: Sequence[int]
) -> NDArray[np.bool_]:
    """Bring a mask onto the model's grid in one step, by nearest neighbour; outside of the mask is False.

    Parameters
    ----------
    marked
        ``([z,] y, x)``, where the mask is drawn.
    mask, image
        The mask and the image that it belongs to, as they were decoded.
    to_source
        ``(4, 4)`` index of the model's grid to index (z, y, x) of the image.
    shape
        Sides of the model's grid.

    Raises
    ------
    Unreadable
        If mask and image cannot be laid onto each other, or do not meet.
    """
    space = image.pixels.shape[1:]
    if mask.affine is None or image.affine is None:
        if _volume(marked.shape) != _volume(space):
            raise Unreadable(
                f"its mask has the shape {marked.shape}, the image {space}, and one of them has no geometry by which "
                "they could be laid onto each other: save the mask on the image's grid, or with its affine"
            )
        return resample_mask(marked, to_source, shape)
    to_mask = _between(image.affine, mask.affine, space)
    found = resample_mask(marked, to_mask @ to_source, shape)
    if not found.any():
        _check_they_meet(marked, mask.affine, image.affine, to_mask, space)
    return found


def lacks_geometry(mask: Decoded, image: Decoded) -> bool:
    """Tell whether only one of mask and image says where it lies, so that nothing holds one against the other."""
    return (mask.affine is None) != (image.affine is None)


def _volume(shape: Sequence[int]) -> tuple[int, ...]:
    return (*[1] * (3 - len(shape)), *shape)


def _between(image: NDArray[np.float64], mask: NDArray[np.float64], space: Sequence[int]) -> NDArray[np.float64]:
    """Compute the matrix from indices of the image to those of the mask; whole numbers where the grids are the same."""
    if not np.isfinite(mask).all() or np.linalg.matrix_rank(mask[:3, :3]) < 3:
        raise Unreadable("the affine of its mask is singular, so that the mask has no place: mend its geometry")
    matrix: NDArray[np.float64] = np.linalg.inv(mask) @ image
    whole = np.rint(matrix)
    corners = np.array([(*corner, 1) for corner in product(*((0, side - 1) for side in _volume(space)))]).T
    return whole if np.abs((matrix - whole) @ corners).max() < _SAME_GRID else matrix


def _check_they_meet(
    marked: NDArray[np.bool_],
    mask: NDArray[np.float64],
    image: NDArray[np.float64],
    to_mask: NDArray[np.float64],
    space: Sequence[int],
) -> None:
    """Tell a mask that is empty here from one that lies elsewhere."""
    if not resample_mask(np.ones_like(marked), to_mask, space).any():
        centres = [
            affine @ [*((side - 1) / 2 for side in _volume(shape)), 1]
            for affine, shape in ((mask, marked.shape), (image, space))
        ]
        apart = float(np.linalg.norm(centres[0] - centres[1]))
        raise Unreadable(
            f"its mask lies {apart:.0f} mm from the image, from centre to centre, and they do not meet: is it the mask "
            "of another image, or is one of their affines wrong?"
        )
    is_slice_of_a_volume = _volume(space)[0] == 1 < _volume(marked.shape)[0]
    if marked.any() and not is_slice_of_a_volume and not resample_mask(marked, to_mask, space).any():
        raise Unreadable(
            "all that is drawn in its mask lies outside of the image: is it the mask of another image, or is one of "
            "their affines wrong?"
        )
