"""The files of an image on one grid, as the channels of one array."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.grids import as_volume, centres_apart, corners
from models.preprocessing import resample_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.work.grids import between


def on_one_grid(sequences: Mapping[str, Decoded], align: Literal["same grid", "to first"]) -> tuple[Decoded, bool]:
    """Put the channels of several files together, on the grid of the first.

    Parameters
    ----------
    sequences
        What the files were decoded to, by name, in the order of the channels.
    align
        Whether all have to lie on the grid of the first, or are resampled onto it: linearly, and 0 outside of a file.

    Returns
    -------
    tuple
        All channels, with the affine of the first file; and whether a file does not cover all of the first.

    Raises
    ------
    Unreadable
        If a file does not lie on the grid of the first, has no place in it, or does not meet it.
    """
    (first_name, first), *others = sequences.items()
    if not others:
        return first, False
    space = first.pixels.shape[1:]
    channels, is_covered = [first.pixels], True
    for name, other in others:
        matrix = _to(other, first, name, first_name)
        if matrix is None:
            channels.append(other.pixels)
            continue
        covered = resample_mask(np.ones(other.pixels.shape[1:], bool), matrix, space)
        if not covered.any():
            raise Unreadable(_distance(first, other, name, first_name))
        if align == "same grid":
            raise Unreadable(
                f"its {name} lies on another grid than its {first_name}, {_difference(first, other)}: resample the "
                "files, or have them resampled by cohort.align: to first"
            )
        channels.append(resampled(other.pixels, matrix, covered))
        is_covered &= bool(covered.all())
    return Decoded(np.concatenate(channels), first.affine), not is_covered


def _to(other: Decoded, first: Decoded, name: str, first_name: str) -> NDArray[np.float64] | None:
    """Compute the matrix from indices of the first file to those of another; None if they lie on one grid."""
    space, other_space = first.pixels.shape[1:], other.pixels.shape[1:]
    if (first.affine is None) != (other.affine is None):
        lacks, has = (first_name, name) if first.affine is None else (name, first_name)
        raise Unreadable(
            f"its {lacks} has no geometry by which it could be laid onto its {has}, which has one: save both with "
            "their affines, or both without"
        )
    if first.affine is None or other.affine is None:
        if space != other_space:
            raise Unreadable(
                f"its {name} has the shape {other_space}, its {first_name} {space}, and they have no geometry by which "
                "they could be laid onto each other: save them on one grid, or with their affines"
            )
        return None
    matrix = between(first.affine, other.affine, space, name)
    return None if space == other_space and np.array_equal(matrix, np.eye(4)) else matrix


def _distance(first: Decoded, other: Decoded, name: str, first_name: str) -> str:
    """Say how far two grids are apart that do not overlap."""
    assert first.affine is not None and other.affine is not None
    apart = centres_apart(first.affine, first.pixels.shape[1:], other.affine, other.pixels.shape[1:])
    return (
        f"its {name} lies {apart:.0f} mm from its {first_name}, from centre to centre, and they do not overlap: is it "
        "of another image, or is one of their affines wrong?"
    )


def _difference(first: Decoded, other: Decoded) -> str:
    """Say how two grids differ: in their shapes, or by how far their outermost voxels are apart."""
    assert first.affine is not None and other.affine is not None
    space, other_space = first.pixels.shape[1:], other.pixels.shape[1:]
    if space != other_space:
        return f"of the shape {other_space} and not {space}"
    apart = np.linalg.norm(((first.affine - other.affine) @ corners(space))[:3], axis=0).max()
    return f"of the same shape, with corners up to {apart:.3g} mm apart"


def resampled(
    pixels: NDArray[np.float32], matrix: NDArray[np.float64], covered: NDArray[np.bool_]
) -> NDArray[np.float32]:
    """Take values to another grid, linearly: ``(channel, *space)``, 0 where the grid is not covered.

    A voxel reaches half-way to where its neighbours would be, so that the outermost hold as far beyond their centres.

    Parameters
    ----------
    pixels
        ``(channel, *space)``.
    matrix
        ``(4, 4)`` index of the other grid to index of the values.
    covered
        ``(*space)``, the places of the other grid that the values cover.
    """
    found = np.empty((len(pixels), *covered.shape), np.float32)
    for channel, values in zip(found, pixels, strict=True):
        ndimage.affine_transform(
            values.reshape(as_volume(values.shape)),
            matrix[:3, :3],
            matrix[:3, 3],
            output=channel.reshape(as_volume(covered.shape)),
            order=1,
            mode="nearest",
        )
        channel[~covered] = 0
    return found
