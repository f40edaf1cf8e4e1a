"""Outputs: the arrays that are computed from images or from a cohort, declared before they are computed."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import AfterValidator, BaseModel, ConfigDict, FiniteFloat, JsonValue, PositiveInt
from torch import Tensor

from models.errors import ConfigurationError

IMAGE_ID = "image_id"
EXPLAINER = "explainer"
COVARIATE = "covariate"
SPACE = ("z", "y", "x")

Axes = Literal["zyx", "monai"]
"""The order of a grid's axes: ([z,] y, x), or (x, y[, z]) as MONAI's LoadImage has them."""

Kind = Literal[
    "image", "mask", "prediction", "map", "channel map", "share", "flags", "metric", "companion", "curve",
    "uncertainty", "record", "vector", "artefact", "region", "counterfactual", "result", "text",
]  # fmt: skip
"""The use that a reader makes of an output: the report has a section for most of them."""


Channels = Literal["combine", "keep"]
"""The choice between a map that combines the channels of the image and one of each channel beside it."""

TEXT = np.dtypes.StringDType()
"""The type of texts in memory; Zarr's `string` in the store."""

Computed = dict[str, Tensor]
"""Values by name of the output: of some images, ``(image, ...)``, or of all of them together."""


def _check_finite(attrs: dict[str, JsonValue]) -> dict[str, JsonValue]:
    json.dumps(attrs, allow_nan=False)  # raises ValueError
    return attrs


class Axis(BaseModel):
    """A dimension that an output declares by itself.

    Attributes
    ----------
    labels
        Names or numbers of its places; or the number of places, where they have no names.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    labels: tuple[FiniteFloat, ...] | tuple[str, ...] | int
    long_name: str = ""

    @property
    def size(self) -> int:
        return self.labels if isinstance(self.labels, int) else len(self.labels)


class Output(BaseModel):
    """One array of the store, as its producer declares it.

    Attributes
    ----------
    dims
        All dimensions; `image_id` is the first where there is one value, or one array, of each image.
    fill
        The value at places that are not computed; None: NaN, or of texts the empty one.
    flags
        By name, the bits that add up in an array of flags.
    axes
        The dimensions that the output declares by itself: `Frame.sizes` has the common ones.
    longest
        The number of bytes that a text has at most, in UTF-8; None where values are numbers.
    mantissa
        The number of bits that are kept of each value's mantissa; None: all.
    required
        Whether every explained image has values.
    attrs
        More attributes of the array; all their numbers are finite, since JSON holds no others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    dims: tuple[str, ...]
    kind: Kind
    long_name: str
    units: str = "1"
    dtype: Literal["float32", "float64", "int32", "uint8", "string"] = "float32"
    fill: FiniteFloat | None = None
    flags: dict[str, int] = {}
    axes: tuple[Axis, ...] = ()
    longest: PositiveInt | None = None
    mantissa: int | None = None
    required: bool = False
    attrs: Annotated[dict[str, JsonValue], AfterValidator(_check_finite)] = {}

    @property
    def per_image(self) -> bool:
        return self.dims[:1] == (IMAGE_ID,)

    @property
    def is_map(self) -> bool:
        """True where each explainer has a value at each place of an image: attribution, or what is made of it."""
        return self.per_image and EXPLAINER in self.dims and not {*SPACE}.isdisjoint(self.dims)

    @property
    def own_dims(self) -> tuple[str, ...]:
        """The dimensions after `image_id`."""
        return self.dims[1:] if self.per_image else self.dims

    @property
    def array_type(self) -> np.dtype[Any]:
        """The type of the output in memory."""
        return TEXT if self.dtype == "string" else np.dtype(self.dtype)

    @property
    def value_bytes(self) -> int:
        """Bytes of a value, of a text at most."""
        return self.longest or self.array_type.itemsize

    @property
    def fill_value(self) -> Any:
        return "" if self.dtype == "string" else self.array_type.type(np.nan if self.fill is None else self.fill)

    @property
    def cf_attrs(self) -> dict[str, Any]:
        """The attributes of the array, by the CF conventions."""
        flags = {
            "flag_masks": np.array(list(self.flags.values()), self.array_type),
            "flag_meanings": " ".join(self.flags),
        }
        return {
            "long_name": self.long_name,
            "units": self.units,
            "kind": self.kind,
            **(flags if self.flags else {}),
            **self.attrs,
        }


@dataclass(frozen=True)
class Frame:
    """The common dimensions of a run's outputs.

    Attributes
    ----------
    targets
        Names of the explained outputs.
    explainers
        Names of the explainers that make maps.
    grid
        Sides of the images as they are explained, along `space`.
    axes
        The order of the grid's axes.
    fields
        Names of the fields of the record that the network takes beside an image.
    covariates
        Names of what is known of an image beside its label, such as its site.
    keeps_channels
        Whether maps are stored of each channel, too.
    """

    classes: tuple[str, ...]
    targets: tuple[str, ...]
    explainers: tuple[str, ...]
    channels: tuple[str, ...]
    grid: tuple[int, ...]
    activation: Literal["softmax", "sigmoid", "identity"]
    segments: bool = False
    masks: bool = False
    axes: Axes = "zyx"
    fields: tuple[str, ...] = ()
    keeps_channels: bool = False
    covariates: tuple[str, ...] = ()

    @property
    def space(self) -> tuple[str, ...]:
        """Names of the grid's axes, in their order."""
        space = SPACE[3 - len(self.grid) :]
        return space if self.axes == "zyx" else space[::-1]

    @property
    def voxel(self) -> tuple[str, ...]:
        """Names of the axes of a voxel's index, as an affine takes it: those of the grid come last."""
        return (*(axis for axis in SPACE if axis not in self.space), *self.space, "1")

    @property
    def sizes(self) -> dict[str, int]:
        """The number of places along each common dimension."""
        return {
            "class": len(self.classes),
            "target": len(self.targets),
            EXPLAINER: len(self.explainers),
            "channel": len(self.channels),
            COVARIATE: len(self.covariates),
            "world": 4,
            "voxel": 4,
            **dict(zip(self.space, self.grid, strict=True)),
        }


def flags_of(kind: type[IntFlag]) -> dict[str, int]:
    """Name the bits of an enumeration of flags."""
    return {name.lower(): int(flag) for name, flag in kind.__members__.items()}


def joined(*parts: Sequence[Output]) -> dict[str, Output]:
    """Put the declarations of several producers together, by name; places along `explainer` follow one another.

    Raises
    ------
    ConfigurationError
        If two outputs have the same name, and are not along `explainer` or differ in more than the places.
    """
    found: dict[str, Output] = {}
    for output in (output for part in parts for output in part):
        before = found.get(output.name)
        found[output.name] = output if before is None else _appended(before, output)
    return found


def _appended(before: Output, output: Output) -> Output:
    axes = {axis.name: axis for axis in before.axes}
    own = {axis.name: axis for axis in output.axes}
    if EXPLAINER not in own or output.model_copy(update={"axes": before.axes}) != before:
        raise ConfigurationError(
            f"the output {output.name!r} is declared twice: give one of those who make it another `label`"
        )
    first, second = axes[EXPLAINER].labels, own[EXPLAINER].labels
    assert isinstance(first, tuple) and isinstance(second, tuple)
    both = Axis(name=EXPLAINER, labels=(*first, *second), long_name=axes[EXPLAINER].long_name)
    return before.model_copy(update={"axes": tuple(both if axis.name == EXPLAINER else axis for axis in before.axes)})


def shape_of(output: Output, frame: Frame) -> tuple[int, ...]:
    """Compute the sides of an output without `image_id`."""
    sizes = frame.sizes | {axis.name: axis.size for axis in output.axes}
    return tuple(sizes[dim] for dim in output.own_dims)
