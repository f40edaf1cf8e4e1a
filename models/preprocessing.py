"""Preprocessing: MONAI transforms from a decoded image to the network's input, with the geometry followed."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.components import Component, instantiate, locate
from models.errors import ConfigurationError
from models.grids import nearest
from models.outputs import Axes

NAMESPACES = ("monai.transforms", "models.transforms")
_FIELD = "cohort.preprocessing"
_FOREIGN = (
    "BatchInverseTransform",
    "CuCIM",
    "DataStats",
    "Invert",
    "Lambda",
    "SimulateDelay",
    "TorchIO",
    "TorchVision",
)
_ARRAY: dict[Axes, dict[int, list[int]]] = {
    "zyx": {2: [1, 2, 0, 3], 3: [0, 1, 2, 3]},
    "monai": {2: [2, 1, 0, 3], 3: [2, 1, 0, 3]},
}
"""Columns of an affine from index (z, y, x), in the order of the array's axes; a picture's z comes last."""
_VOXEL = {2: [2, 0, 1, 3], 3: [0, 1, 2, 3]}
"""Columns of an affine of the array's axes, in the order of a voxel's index, where a picture's z comes first."""
_UNSTEADY = ("SavitzkyGolaySmooth",)  # until torch has the mend of https://github.com/pytorch/pytorch/issues/187411
_UNTRACKED = ("Transpose", "GridDistortion")
_ASTRAY = {
    "lazy": "puts off what it does, and the next transform would be given an image that it was not done to",
    "recompute_affine": "states another affine than the one by which it has moved the voxels",
}
"""Arguments that no transform may be given as true, and why not."""


@dataclass(frozen=True)
class Preprocessed:
    """One image on the model's grid.

    Attributes
    ----------
    network_input
        ``(channel, *space)`` float32, as the network takes it.
    image
        ``(channel, *space)`` float32, the same before the intensity transforms that end the preprocessing.
    affine
        ``(4, 4)`` index of the grid to RAS mm; NaN where the source gives no geometry. The index is (z, y, x); with
        MONAI's axes it is (x, y, z) in a volume and (z, x, y) in a picture.
    to_source
        ``(4, 4)`` the same index of the grid to index (z, y, x) of the decoded image.
    """

    network_input: NDArray[np.float32]
    image: NDArray[np.float32]
    affine: NDArray[np.float64]
    to_source: NDArray[np.float64]


class TransformError(Exception):
    """A transform failed on an image; the text has the kind of error and not its message, which may quote the image."""


class Preprocessing:
    """The transforms of a configuration, in order.

    Parameters
    ----------
    components
        What is said of each transform.
    axes
        The order of the axes that the transforms and the network are given.

    Raises
    ------
    ConfigurationError
        If a component is not an array transform of ``monai.transforms`` or ``models.transforms`` that gives the same
        result every time.
    """

    def __init__(self, components: Sequence[Component], axes: Axes = "zyx") -> None:
        self.axes = axes
        self.transforms = [_transform(component) for component in components]
        trailing = sum(1 for _ in takewhile(_changes_intensity_only, reversed(self.transforms)))
        self._intensity_from = len(self.transforms) - trailing

    def __call__(self, pixels: NDArray[np.float32], affine: NDArray[np.float64] | None) -> Preprocessed:
        """Prepare ``(channel, [z,] y, x)`` with its affine (index (z, y, x) to RAS mm), or None if it has none.

        Raises
        ------
        TransformError
            If a transform, or following the geometry, fails on this image.
        """
        array = _ARRAY[self.axes][pixels.ndim - 1]
        source = np.eye(4) if affine is None else affine[:, array]
        _check_geometry(source)
        if self.axes == "monai":
            pixels = pixels.transpose(0, *range(pixels.ndim - 1, 0, -1))
        # The pixels are copied here and below, since some of MONAI's intensity transforms work in place.
        image, tracked = self._moved(torch.from_numpy(pixels.copy()), source)
        voxel = _VOXEL[pixels.ndim - 1]
        return Preprocessed(
            network_input=self.network_input(image),
            image=_array(image),
            affine=np.full((4, 4), np.nan) if affine is None else tracked[:, voxel],
            to_source=(np.linalg.inv(source) @ tracked)[np.argsort(array)][:, voxel],
        )

    def _moved(self, image: Tensor, affine: NDArray[np.float64]) -> tuple[Tensor, NDArray[np.float64]]:
        """Take an image, with its affine, through the transforms that may move it."""
        if not self._intensity_from:
            return image, affine
        from monai.data import MetaTensor

        moved: Any = MetaTensor(image, affine=torch.from_numpy(affine))
        for transform in self.transforms[: self._intensity_from]:
            moved = _applied(transform, moved)
            _check_tracked(transform, moved)
        return moved.as_tensor(), _tracked(moved)

    def network_input(self, image: Tensor) -> NDArray[np.float32]:
        """Take an image on the model's grid, ``(channel, *space)``, through the intensity transforms that are left."""
        value: Any = image.clone()
        # These move nothing: MONAI need not follow each of their operations, which takes longer than the operations.
        with torch._C.DisableTorchFunctionSubclass():
            for transform in self.transforms[self._intensity_from :]:
                value = _applied(transform, value)
        return _array(value)


def resample_mask(mask: NDArray[np.bool_], to_mask: NDArray[np.float64], shape: Sequence[int]) -> NDArray[np.bool_]:
    """Take a mask to another grid, by nearest neighbour; outside of the mask is False.

    Parameters
    ----------
    mask
        ``([z,] y, x)``.
    to_mask
        ``(4, 4)`` index of the grid to index (z, y, x) of the mask.
    shape
        The grid's sides; one of two is that of a picture, whose index has a first axis more.
    """
    return nearest(mask.view(np.uint8), to_mask, shape) > 0


def _check_geometry(affine: NDArray[np.float64]) -> None:
    if not np.isfinite(affine).all() or not _span_space(affine[:3, :3].tobytes()):
        raise TransformError("the affine of the image is singular, so that its voxels have no place: mend its geometry")


@lru_cache
def _span_space(axes: bytes) -> bool:
    """Tell whether three axes lie in no plane; images of a cohort mostly have the same."""
    return bool(np.linalg.matrix_rank(np.frombuffer(axes).reshape(3, 3)) == 3)


def _tracked(moved: Any) -> NDArray[np.float64]:
    """Take the affine that the transforms left."""
    tracked = np.asarray(moved.affine, dtype=np.float64)
    if tracked.shape != (4, 4) or not np.isfinite(tracked).all():
        raise TransformError("the transforms leave no affine that places the voxels: they change the number of axes")
    return tracked


def _transform(component: Component) -> Any:
    from monai.transforms import MapTransform, Randomizable, RandomizableTrait, Transform

    located = locate(component, NAMESPACES, Transform, _FIELD, "cohortlens.transforms")
    name = component["_target_"]
    if located.__module__.startswith("monai.transforms.io"):
        raise ConfigurationError(f"`_target_: {name}` reads or writes files; images are read by cohortlens itself")
    if issubclass(located, MapTransform):
        raise ConfigurationError(
            f"`_target_: {name}` is a dictionary transform; use {str(name).removesuffix('d').removesuffix('Dict')}"
        )
    if issubclass(located, (Randomizable, RandomizableTrait)):
        raise ConfigurationError(f"`_target_: {name}` is random; a cohort is prepared the same way every time")
    if located.__name__ in _UNTRACKED:
        raise ConfigurationError(
            f"`_target_: {name}` moves pixels but not the affine; use Orientation, Rotate90 or Flip"
        )
    if located.__name__ in _UNSTEADY:
        raise ConfigurationError(
            f"`_target_: {name}` solves for its kernel by torch.linalg.lstsq, whose last digits depend on memory left "
            "over by other work, so that two runs would differ: use GaussianSmooth"
        )
    if located.__name__ in _FOREIGN:
        raise ConfigurationError(
            f"`_target_: {name}` runs other code than MONAI's, or tells of images elsewhere: use a transform that "
            "works on the array alone"
        )
    for argument, problem in _ASTRAY.items():
        if component.get(argument):
            raise ConfigurationError(f"`_target_: {name}` with {argument}: true {problem}: leave {argument} out")
    return instantiate(component, located, _FIELD)


def _applied(transform: Any, value: Any) -> Any:
    try:
        return transform(value)
    except Exception as error:  # a transform can raise anything on an image that it was not made for
        raise TransformError(f"{type(transform).__name__} fails with {type(error).__name__}") from error


def _check_tracked(transform: Any, moved: Any) -> None:
    """Check that a transform has left the affine, since the next one would begin with another in its place."""
    from monai.data import MetaTensor

    if not isinstance(moved, MetaTensor):
        raise TransformError(
            f"{type(transform).__name__} leaves an image without its affine: leave track_meta and data_type out"
        )


def _changes_intensity_only(transform: object) -> bool:
    return type(transform).__module__.startswith("monai.transforms.intensity")


def _array(value: Any) -> NDArray[np.float32]:
    return np.ascontiguousarray(np.asarray(value), dtype=np.float32)
