"""The way an image lies in the patient, by its affine: the plane that is shown, the letters at its edges, places."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import product
from typing import Any

import numpy as np
import xarray as xr
from nibabel.orientations import io_orientation
from numpy.typing import NDArray

_ENDS = (("right", "left"), ("anterior", "posterior"), ("superior", "inferior"))
"""By the patient's axis, its end towards R, A or S, which is shown first, and the other."""

_PLANES = ("sagittal", "coronal", "axial")
_STRAIGHT = np.cos(np.deg2rad(5))
"""The least cosine between a grid's axis and the patient's in a plane that is not called oblique."""

_THICK = 1.5
"""The factor by which a spacing is wider than all others across slices that are shown as they were taken."""

_SIDES = (("upper", "", "lower"), ("left", "", "right"))


@dataclass(frozen=True)
class View:
    """One way to look at a grid: across which axis it is cut, which axes are rows and columns, what is turned round.

    Pictures have the patient's left on the right, anterior above posterior or left of it, superior above inferior.

    Attributes
    ----------
    shape
        Sides of the grid.
    across
        The axis of the slices; None for a grid of two axes. `name` is the name of this axis in the store.
    rows, columns
        The axes that run down and to the right.
    flipped
        Whether each axis is turned round.
    spacing
        Of each axis in mm; 1 where it is not known.
    patient
        Of each axis, the patient's axis that it lies along: 0 right, 1 anterior, 2 superior; empty without an affine.
    oblique
        Whether an axis is more than 5 degrees off the patient's.
    """

    shape: tuple[int, ...]
    across: int | None
    name: str
    rows: int
    columns: int
    flipped: tuple[bool, ...]
    spacing: tuple[float, ...]
    patient: tuple[int, ...]
    oblique: bool

    @property
    def plane(self) -> str:
        """The name of the nearest anatomical plane; empty where there is no affine."""
        if not self.patient:
            return ""
        (normal,) = {0, 1, 2} - {self.patient[self.rows], self.patient[self.columns]}
        return f"oblique, nearest to {_PLANES[normal]}" if self.oblique else _PLANES[normal]

    @property
    def letters(self) -> tuple[str, str, str, str] | None:
        """The patient's directions at the top, the right, the bottom and the left of a picture; None where unknown."""
        if not self.patient:
            return None
        (top, bottom), (left, right) = (_ENDS[self.patient[axis]] for axis in (self.rows, self.columns))
        first = [word[0].upper() for word in (top, right, bottom, left)]
        return first[0], first[1], first[2], first[3]

    @property
    def aspect(self) -> float:
        """Width of a picture in the patient, divided by its height."""
        height, width = (self.shape[axis] * self.spacing[axis] for axis in (self.rows, self.columns))
        return width / height

    def title(self, slice_: int | None) -> str:
        """Say what is shown: the plane, and the slice, counted from 1 along the store's axis."""
        if self.across is None or slice_ is None:
            return self.plane
        count = f"slice {slice_ + 1} of {self.shape[self.across]}"
        return f"{self.plane}, {count}" if self.plane else f"{count} along {self.name}"

    def cut(self, values: NDArray[Any], slice_: int | None) -> NDArray[Any]:
        """Take the picture ``(row, column)`` of one slice out of values on the grid."""
        turned = np.flip(values, tuple(axis for axis, turn in enumerate(self.flipped) if turn and axis != self.across))
        picture = turned if self.across is None or slice_ is None else turned.take(slice_, axis=self.across)
        return picture if self.rows < self.columns else picture.T

    def thirds(self) -> dict[str, NDArray[np.bool_]]:
        """Cut each axis into thirds: up to 9 or 27 places, by name, as bool on the grid."""
        axes = []
        for size, turn in zip(self.shape, self.flipped, strict=True):
            third = (2 * np.arange(size) + 1) * 3 // (2 * size)
            axes.append(2 - third if turn else third)
        return {
            self._name(parts): reduce(np.logical_and.outer, [of == part for of, part in zip(axes, parts, strict=True)])
            for parts in product(*(np.unique(of).tolist() for of in axes))
        }

    def _name(self, parts: Sequence[int]) -> str:
        """Name a place by its third along each axis, as it is shown: 0 first, 1 middle, 2 last."""
        sides = [_SIDES[0][parts[self.rows]], _SIDES[1][parts[self.columns]]]
        words = " ".join(side for side in sides if side)
        name = f"the {words} corner" if all(sides) else f"the {words} middle" if words else "the centre"
        known = [
            _ENDS[self.patient[axis]][parts[axis] // 2]
            for axis in (self.rows, self.columns)
            if self.patient and parts[axis] != 1
        ]
        name += " of the image" if self.across is None else f" of the {self._slices(parts[self.across])} slices"
        return f"{name} (the patient's {' '.join(reversed(known))})" if known else name

    def _slices(self, part: int) -> str:
        if part == 1 or not self.patient or self.across is None:
            return ("first", "middle", "last")[part]
        return _ENDS[self.patient[self.across]][part // 2]


def view_of(image: xr.Dataset) -> View:
    """Find the view of one image of the store, from its `affine` and the names of its axes.

    A volume is cut as it was taken if its slices are much thicker than wide, else into axial slices; without an
    affine, across the axis named z.
    """
    space = space_of(image)
    shape = tuple(image.sizes[dim] for dim in space)
    columns = image["affine"].sel(voxel=list(space)).values[:3]
    orientation = directions(columns)
    if orientation is None:
        across = space.index("z") if len(space) == 3 else None
        rows, right = sorted((axis for axis in range(len(space)) if axis != across), key=lambda axis: space[axis])[::-1]
        name = "" if across is None else space[across]
        return View(shape, across, name, rows, right, (False,) * len(space), (1.0,) * len(space), (), False)
    patient = tuple(axis for axis, _ in orientation)
    spacing = np.linalg.norm(columns, axis=0)
    across = None
    if len(space) == 3:
        widest = np.argsort(spacing, kind="stable")[::-1]
        is_thick = spacing[widest[0]] > _THICK * spacing[widest[1]]
        across = int(widest[0]) if is_thick else patient.index(2)
    shown = [axis for axis in range(len(space)) if axis != across]
    rows, right = sorted(shown, key=lambda axis: -patient[axis])
    return View(
        shape=shape,
        across=across,
        name="" if across is None else space[across],
        rows=rows,
        columns=right,
        flipped=tuple(towards > 0 for _, towards in orientation),
        spacing=tuple(float(of) for of in spacing),
        patient=patient,
        oblique=bool((np.abs(columns).max(0) / spacing).min() < _STRAIGHT),
    )


def space_of(image: xr.Dataset) -> tuple[str, ...]:
    """Name the axes of an image of the store, in their order there."""
    return tuple(str(dim) for dim in image["image"].dims if dim not in ("image_id", "channel"))


def directions(columns: NDArray[np.floating]) -> tuple[tuple[int, int], ...] | None:
    """Find which of the patient's axes each axis of a grid is nearest to, and whether along (1) or against it (-1).

    Parameters
    ----------
    columns
        ``(3, axis)``, mm in RAS by step along each axis; None is returned where these say nothing.
    """
    if not np.isfinite(columns).all():
        return None
    affine = np.zeros((4, columns.shape[1] + 1))
    affine[:3, :-1], affine[3, -1] = columns, 1
    found = io_orientation(affine)
    if np.isnan(found).any():
        return None
    return tuple((int(axis), int(towards)) for axis, towards in found)
