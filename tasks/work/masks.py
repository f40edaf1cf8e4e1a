"""Masks on the model's grid, brought there by the geometry of mask and image, or by equal shapes without one."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from models.grids import as_volume, centres_apart
from models.preprocessing import resample_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.work.grids import between


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
        if as_volume(marked.shape) != as_volume(space):
            raise Unreadable(
                f"its mask has the shape {marked.shape}, the image {space}, and one of them has no geometry by which "
                "they could be laid onto each other: save the mask on the image's grid, or with its affine"
            )
        return resample_mask(marked, to_source, shape)
    to_mask = between(image.affine, mask.affine, space, "mask")
    found = resample_mask(marked, to_mask @ to_source, shape)
    if not found.any():
        _check_they_meet(marked, mask.affine, image.affine, to_mask, space)
    return found


def lacks_geometry(mask: Decoded, image: Decoded) -> bool:
    """Tell whether only one of mask and image says where it lies, so that nothing holds one against the other."""
    return (mask.affine is None) != (image.affine is None)


def _check_they_meet(
    marked: NDArray[np.bool_],
    mask: NDArray[np.float64],
    image: NDArray[np.float64],
    to_mask: NDArray[np.float64],
    space: Sequence[int],
) -> None:
    """Tell a mask that is empty here from one that lies elsewhere."""
    if not resample_mask(np.ones_like(marked), to_mask, space).any():
        apart = centres_apart(mask, marked.shape, image, space)
        raise Unreadable(
            f"its mask lies {apart:.0f} mm from the image, from centre to centre, and they do not meet: is it the mask "
            "of another image, or is one of their affines wrong?"
        )
    is_slice_of_a_volume = as_volume(space)[0] == 1 < as_volume(marked.shape)[0]
    if marked.any() and not is_slice_of_a_volume and not resample_mask(marked, to_mask, space).any():
        raise Unreadable(
            "all that is drawn in its mask lies outside of the image: is it the mask of another image, or is one of "
            "their affines wrong?"
        )
