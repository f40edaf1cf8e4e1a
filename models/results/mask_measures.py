"""Measures of what a mask marks: its shape, and the intensities of the image within."""

import warnings
from collections.abc import Sequence
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from skimage.measure import regionprops

FlatShape = Literal["eccentricity", "perimeter"]
"""Properties that scikit-image has of pictures alone."""

Shape = Literal[
    "area", "axis_major_length", "axis_minor_length", "equivalent_diameter_area", "extent", "solidity", FlatShape
]
Intensity = Literal["intensity_mean", "intensity_std", "intensity_min", "intensity_max"]
MaskMeasure = Literal[Shape, Intensity]

OF_PICTURES: tuple[str, ...] = get_args(FlatShape)
OF_INTENSITY: tuple[str, ...] = get_args(Intensity)

_PREFIX = "mask_"


def names_of(measures: Sequence[MaskMeasure], channels: Sequence[str]) -> tuple[str, ...]:
    """Name the numbers that measures are: one of a shape, and one of each channel of an intensity."""
    several = [f"_{channel}" for channel in channels] if len(channels) > 1 else [""]
    return tuple(
        f"{_PREFIX}{measure}{channel}"
        for measure in measures
        for channel in (several if measure in OF_INTENSITY else [""])
    )


def measure_mask(
    mask: NDArray[np.bool_], image: NDArray[np.float32], measures: Sequence[MaskMeasure]
) -> NDArray[np.float64]:
    """Measure all that a mask ``(*space)`` marks as one region, and the image ``(channel, *space)`` within.

    Shapes are scikit-image's `regionprops`, in steps of the grid; the `area` of a volume is a number of voxels.

    Returns
    -------
    array
        ``(number,)``, in the order of `names_of`; NaN where the mask is empty or too small for the measure.
    """
    if not mask.any():
        return np.full(len(names_of(measures, range(len(image)))), np.nan)  # type: ignore[arg-type]
    (region,) = regionprops(mask.astype(np.uint8))
    inside = image[:, mask].astype(np.float64)
    intensities = {
        "intensity_mean": inside.mean(1),
        "intensity_std": inside.std(1),
        "intensity_min": inside.min(1),
        "intensity_max": inside.max(1),
    }
    found = [intensities[name] if name in intensities else [_shape(region, name)] for name in measures]
    numbers = np.concatenate(found)
    return np.where(np.isfinite(numbers), numbers, np.nan)


def _shape(region: Any, name: str) -> float:
    with warnings.catch_warnings(), np.errstate(divide="ignore", invalid="ignore"):
        warnings.simplefilter("ignore")  # of a region that is flat, which has no hull
        return float(getattr(region, name))
