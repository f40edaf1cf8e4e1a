"""The way back: what lies on the network's grid, brought onto the grid of the source.

The transforms of a preprocessing move an affine with the pixels, so that the place of every voxel of the grid in the
source is known: `Preprocessed.to_source`. A voxel of the source looks its value up through the inverse of that matrix.
Maps are interpolated linearly, masks and labels are looked up by nearest neighbour. Where nothing was resampled, the
matrix is one of whole numbers, and every value comes back bit for bit.

MONAI's `Invertd` replays the inverse of each transform, one after the other. It interpolates at each of them, and makes
up values where a transform has cropped. It is the oracle of the tests, and nothing of a case is made by it.

A voxel that the network was not shown has the attribution 0: its value cannot change the output. `Way.seen` tells such
voxels from others.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.components import Component
from models.errors import ConfigurationError
from models.grids import index_matrix, nearest
from models.preprocessing import resample_mask
from tasks.cohort.config import CohortConfig
from tasks.work.alignment import resampled

_MOVES = {
    *("Orientation", "Flip", "Rotate90", "Rotate", "Zoom", "Resize", "Spacing", "SpatialResample", "Affine"),
    *("Pad", "SpatialPad", "BorderPad", "DivisiblePad"),
    *("SpatialCrop", "CenterSpatialCrop", "CenterScaleCrop", "CropForeground", "ResizeWithPadOrCrop"),
}
"""Transforms of space whose affine is the true one, as `tests/tasks/export/test_native.py` shows of each."""

_AT_CORNER = "it takes the voxel at the corner, up to one beside the place that its affine says"

_ASTRAY: dict[str, dict[str, tuple[Any, str]]] = {
    "Affine": {
        "normalized": (True, "its affine is that of other coordinates"),
        "align_corners": (True, "its affine is that of voxels that are a little smaller"),
    },
    "Resize": {"mode": ("nearest", _AT_CORNER)},
    "Zoom": {"mode": ("nearest", _AT_CORNER)},
}
"""Arguments with which the affine that MONAI tracks is not the true one."""

_STAYS = {
    *("Identity", "EnsureChannelFirst", "EnsureType", "CastToType", "ToTensor", "ToDevice"),
    *("RepeatChannel", "RemoveRepeatedChannel", "AddCoordinateChannels", "LabelToMask", "MapLabelValue"),
}
_VALUES_ALONE = ("monai.transforms.intensity.", "models.transforms.")


@dataclass(frozen=True)
class Way:
    """The way from a source's grid to the network's.

    Attributes
    ----------
    to_grid
        ``(4, 4)`` index (z, y, x) of the source to the index of the network's grid.
    grid, space
        Sides of the network's grid and of the source's; those of pictures are two.
    """

    to_grid: NDArray[np.float64]
    grid: tuple[int, ...]
    space: tuple[int, ...]

    @classmethod
    def back(cls, to_source: NDArray[np.float64], grid: Sequence[int], space: Sequence[int]) -> "Way":
        """Turn the way round that the preprocessing took; ``to_source`` is that of `Preprocessed`."""
        return cls(index_matrix(np.eye(4), to_source, space), tuple(grid), tuple(space))

    @cached_property
    def seen(self) -> NDArray[np.bool_]:
        """The voxels of the source that lie in the network's grid, ``(*space)``."""
        return resample_mask(np.ones(self.grid, bool), self.to_grid, self.space)

    @property
    def is_exact(self) -> bool:
        """Whether every voxel of the source has its own place in the grid, so that nothing is interpolated."""
        return bool((self.to_grid == np.rint(self.to_grid)).all())

    def map(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """Bring a map ``(*grid)`` back, linearly: ``(*space)``, 0 where the network was not shown the source."""
        return resampled(values[None], self.to_grid, self.seen)[0]

    def labels(self, values: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bring a mask or labels ``(*grid)`` back, by nearest neighbour: ``(*space)``, 0 where nothing was shown."""
        return nearest(values, self.to_grid, self.space)


def check_way_back(cohort: CohortConfig) -> None:
    """Check that what the network was shown can be found in the sources.

    Raises
    ------
    ConfigurationError
        If the images are slides, or a transform moves pixels in a way that no affine is known to tell.
    """
    if cohort.slides:
        raise ConfigurationError(
            "cohort.slides: the tiles of a slide have no one grid to be brought back onto: the store has their places, "
            "and the report shows them on the slide"
        )
    for component, transform in zip(cohort.preprocessing, cohort.make_preprocessing().transforms, strict=True):
        if problem := _problem(component, transform):
            raise ConfigurationError(
                f"cohort.preprocessing: {type(transform).__name__}: maps cannot be brought back through it: {problem}"
            )


def _problem(component: Component, transform: Any) -> str:
    """Say why the place of a voxel before a transform is not known; empty if the place is known."""
    module, name = f"{type(transform).__module__}.", type(transform).__name__
    if module.startswith(_VALUES_ALONE):
        return ""
    if not module.startswith("monai.transforms.") or name not in _MOVES | _STAYS:
        return "nothing shows where it moves the voxels to"
    for argument, (value, problem) in _ASTRAY.get(name, {}).items():
        if component.get(argument) == value:
            return f"with {argument}: {value}, {problem}"
    return ""
