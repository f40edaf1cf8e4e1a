"""The files of an image on one grid, as the channels of one array."""

from collections.abc import Mapping
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from models.preprocessing import resample_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.work.grids import as_volume, between, centres_apart, corners


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
    (name, first), *others = sequences.items()
    if not others:
        return first, False
    channels, covered = [first.pixels], True
    for other_name, other in others:
        if _is_on_grid(first, other, other_name, name):
            channels.append(other.pixels)
            continue
        _check_they_meet(first, other, other_name, name)
        if align == "same grid":
            raise Unreadable(
                f"its {other_name} lies on another grid than its {name}, {_difference(first, other)}: resample the "
                "files, or have them resampled by cohort.align: to first"
            )
        pixels, is_inside = _resampled(first, other, other_name)
        channels.append(pixels)
        covered &= bool(is_inside.all())
    return Decoded(np.concatenate(channels), first.affine), not covered


def _is_on_grid(first: Decoded, other: Decoded, name: str, first_name: str) -> bool:
    """Tell whether a file lies on the grid of the first; where neither has a geometry, by their shapes."""
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
        return True
    return space == other_space and np.array_equal(between(first.affine, other.affine, space, name), np.eye(4))


def _geometry(first: Decoded, other: Decoded) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    assert first.affine is not None and other.affine is not None
    return first.affine, other.affine


def _check_they_meet(first: Decoded, other: Decoded, name: str, first_name: str) -> None:
    here, there = _geometry(first, other)
    space, other_space = first.pixels.shape[1:], other.pixels.shape[1:]
    if not resample_mask(np.ones(other_space, bool), between(here, there, space, name), space).any():
        apart = centres_apart(here, space, there, other_space)
        raise Unreadable(
            f"its {name} lies {apart:.0f} mm from its {first_name}, from centre to centre, and they do not overlap: is "
            "it of another image, or is one of their affines wrong?"
        )


def _difference(first: Decoded, other: Decoded) -> str:
    """Say how two grids differ: in their shapes, or by how far their outermost voxels are apart."""
    here, there = _geometry(first, other)
    space, other_space = first.pixels.shape[1:], other.pixels.shape[1:]
    if space != other_space:
        return f"of the shape {other_space} and not {space}"
    apart = np.linalg.norm(((here - there) @ corners(space))[:3], axis=0).max()
    return f"of the same shape, with corners up to {apart:.3g} mm apart"


def _resampled(first: Decoded, other: Decoded, name: str) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Take a file to the grid of the first: ``(channel, *space)``, and ``(*space)`` which places it covers.

    A voxel reaches half-way to where its neighbours would be, so that the outermost hold as far beyond their centres.
    """
    here, there = _geometry(first, other)
    space, other_space = first.pixels.shape[1:], other.pixels.shape[1:]
    matrix = between(here, there, space, name)
    covered = resample_mask(np.ones(other_space, bool), matrix, space)
    pixels = np.empty((len(other.pixels), *space), np.float32)
    for channel, values in zip(pixels, other.pixels, strict=True):
        ndimage.affine_transform(
            values.reshape(as_volume(other_space)),
            matrix[:3, :3],
            matrix[:3, 3],
            output=channel.reshape(as_volume(space)),
            order=1,
            mode="nearest",
        )
    return np.where(covered, pixels, np.float32(0)), covered
