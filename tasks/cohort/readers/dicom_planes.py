"""Where the planes of DICOM lie in the patient: their positions, their order, the affine of a volume."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from tasks.cohort.readers.dicom_elements import first_item
from tasks.cohort.readers.dicom_stored import frame_count
from tasks.cohort.reading import Unreadable

# DICOM's patient axes point left and posterior, RAS points right and anterior.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])

_SPACING_TOLERANCE = 0.1
"""Share of the usual distance by which a distance between slices may differ from it."""

_PARALLEL = 2e-3
"""Cosines that differ by less are the same: files round them to three digits and more."""


_SMALLEST, _FURTHEST = 1e-6, 1e6
"""Pixels are no smaller, and nothing of a patient lies further from the origin, in mm."""

Columns = NDArray[np.float64]


@dataclass(frozen=True)
class Plane:
    """One slice: `values` ``(y, x[, channel])``; `columns` are the mm steps of (z, y, x) and the origin, in LPS.

    `columns` is None if the file does not say where the slice lies, and the reason if what it says cannot be.
    """

    values: NDArray[np.float32]
    columns: Columns | Unreadable | None


AnyPlane = TypeVar("AnyPlane", bound=Plane)


def slice_orientation(header: Dataset) -> tuple[float, ...]:
    """Read the cosines of a single frame's rows and columns to four digits; none if there are none that can be."""
    shared, own = (
        first_item(header, f"{whose}FunctionalGroupsSequence") or Dataset() for whose in ("Shared", "PerFrame")
    )
    with suppress(Unreadable):
        cosines = _Tags(header, shared, own).numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
        if cosines is not None:
            return tuple(round(float(cosine), 4) for cosine in cosines)
    return ()


def plane_columns(dataset: Dataset, shared: Dataset, own: Dataset, number: int) -> Columns | Unreadable | None:
    """Find where frame `number` lies, from its own functional groups, the shared ones, or the dataset itself."""
    try:
        return _columns(_Tags(dataset, shared, own), number)
    except Unreadable as reason:
        return reason


def slice_thickness(dataset: Dataset, shared: Dataset, own: Dataset) -> float | None:
    """Read the thickness of a frame in mm; None if the file does not say, or says none that can be."""
    return _Tags(dataset, shared, own).distance("SliceThickness")


def arranged(planes: list[AnyPlane], files: int) -> tuple[list[AnyPlane], NDArray[np.float64] | None]:
    """Order the planes of `files` files along their normal, and find the affine of the volume.

    Frames of one file that do not say where they lie stay in their own order, and have no affine.

    Raises
    ------
    Unreadable
        If the planes do not make one volume.
    """
    if len(planes) == 1:
        columns = planes[0].columns
        return planes, _affine(columns[None]) if isinstance(columns, np.ndarray) else None
    located = []
    for plane in planes:
        if isinstance(plane.columns, Unreadable):
            raise plane.columns
        if plane.columns is not None:
            located.append(plane.columns)
    if len(located) < len(planes):
        if files > 1:
            raise Unreadable(
                f"{len(planes) - len(located)} of {len(planes)} slices lack ImagePositionPatient, "
                "ImageOrientationPatient or PixelSpacing, and slices without ImagePositionPatient cannot be ordered: "
                "export them again with it"
            )
        return planes, None
    columns = np.stack(located)
    order = _order(columns)
    return [planes[place] for place in order], _affine(columns[order])


@dataclass(frozen=True)
class _Tags:
    """The tags of a frame, which lie in its own functional groups, in the shared ones, or in the dataset itself."""

    dataset: Dataset
    shared: Dataset
    own: Dataset

    def group(self, sequence: str, keyword: str) -> Dataset | None:
        for groups in (self.own, self.shared):
            item = first_item(groups, sequence)
            if item is not None and keyword in item:
                return item
        return None

    def numbers(self, sequence: str, keyword: str, count: int) -> NDArray[np.float64] | None:
        group = self.group(sequence, keyword)
        values = _values(self.dataset if group is None else group, keyword)
        if len(values) not in (0, count):
            raise Unreadable(f"{keyword} has {len(values)} numbers, not {count}: export the file again from its source")
        return _numbers(values, keyword) if values else None

    def distance(self, keyword: str) -> float | None:
        """Read a distance in mm; None if it is missing or is none."""
        with suppress(Unreadable):
            distance = self.numbers("PixelMeasuresSequence", keyword, 1)
            if distance is not None and distance[0] > 0:
                return float(distance[0])
        return None


def _values(dataset: Dataset, keyword: str) -> Sequence[Any]:
    """Take the values of an element, which come as a list or alone; none if it is missing, empty or beyond reading."""
    try:
        value = dataset.get(keyword)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"{keyword} does not consist of numbers: export the file again from its source") from None
    if value is None or value == "":
        return ()
    return value if isinstance(value, (MultiValue, list)) else (value,)


def _numbers(values: Sequence[Any], keyword: str) -> NDArray[np.float64]:
    try:
        numbers = np.array([float(value) for value in values])
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"{keyword} does not consist of numbers: export the file again from its source") from None
    if not (np.abs(numbers) <= _FURTHEST).all():
        raise Unreadable(
            f"{keyword} holds numbers beyond {_FURTHEST:g} mm, or that are none: export the file again from its source"
        )
    return numbers


def _columns(tags: _Tags, number: int) -> Columns | None:
    position = tags.numbers("PlanePositionSequence", "ImagePositionPatient", 3)
    orientation = tags.numbers("PlaneOrientationSequence", "ImageOrientationPatient", 6)
    spacing = tags.numbers("PixelMeasuresSequence", "PixelSpacing", 2)
    if position is None or orientation is None or spacing is None:
        return None
    cosines = orientation.reshape(2, 3)
    if np.abs(cosines @ cosines.T - np.eye(2)).max() > _PARALLEL:
        raise Unreadable(
            "the directions of ImageOrientationPatient are not perpendicular, or not of length 1: export the file "
            "again from its source"
        )
    if spacing.min() < _SMALLEST:
        raise Unreadable(
            f"PixelSpacing is {spacing[0]:g} and {spacing[1]:g} mm, and must be above zero: export the file again from "
            "its source"
        )
    normal = np.cross(cosines[0], cosines[1])
    between = tags.distance("SpacingBetweenSlices")
    if tags.group("PlanePositionSequence", "ImagePositionPatient") is None:  # that of the first frame
        offset = _frame_offset(tags.dataset, position, cosines, number)
        if offset is None and number and between is None:
            return None
        position = position + (number * (between or 0.0) * normal if offset is None else offset)
    step = normal * (between or tags.distance("SliceThickness") or 1.0)
    return np.stack([step, cosines[1] * spacing[0], cosines[0] * spacing[1], position])


def _frame_offset(
    dataset: Dataset, position: NDArray[np.float64], cosines: NDArray[np.float64], number: int
) -> NDArray[np.float64] | None:
    """Find how far a dose's plane lies from its first one, in mm (PS3.3 C.8.8.3.2); None if the file does not say."""
    offsets, count = _values(dataset, "GridFrameOffsetVector"), frame_count(dataset)
    if not offsets:
        return None
    if len(offsets) != count:
        raise Unreadable(f"GridFrameOffsetVector has {len(offsets)} numbers for {count} frames: export the file again")
    first, offset = _numbers([offsets[0], offsets[number]], "GridFrameOffsetVector")
    if first == 0:
        along_normal: NDArray[np.float64] = offset * np.cross(cosines[0], cosines[1])
        return along_normal
    is_axial = np.allclose(np.abs(cosines), [[1, 0, 0], [0, 1, 0]], atol=_PARALLEL)
    if not is_axial or not np.isclose(first, position[2], atol=1e-2):
        raise Unreadable(
            f"GridFrameOffsetVector begins with {first:g}, which is neither 0 nor, of axial planes, where "
            "ImagePositionPatient lies: export the file again from its source"
        )
    return np.array([0.0, 0.0, offset - first])


def _order(columns: NDArray[np.float64]) -> NDArray[np.intp]:
    """Order planes ``(plane, 4, 3)`` along their normal, and check that they are evenly stacked."""
    along_column, along_row = columns[0, 1:3]
    lengths = np.linalg.norm([along_column, along_row], axis=1)
    if not np.allclose(columns[:, 1:3], columns[0, 1:3], rtol=0, atol=_PARALLEL * lengths.min()):
        raise Unreadable("the slices differ in orientation or pixel spacing: split the series by orientation")
    normal = np.cross(along_row, along_column) / lengths.prod()
    heights = columns[:, 3] @ normal
    order = np.argsort(heights, kind="stable")
    gaps = np.diff(heights[order])
    usual = float(np.median(gaps))
    if usual <= 0 or gaps.min() <= 0:
        raise Unreadable("two slices lie at the same position: split the series by time point or echo")
    uneven = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[uneven] - usual) > _SPACING_TOLERANCE * usual:
        raise Unreadable(
            f"the slices are not evenly spaced: {usual:.2f} mm apart, but {gaps[uneven]:.2f} mm "
            f"between slices {uneven + 1} and {uneven + 2} of {len(columns)}: a slice may be missing"
        )
    _check_straight(columns[order, 3], normal, lengths.max())
    return order


def _check_straight(positions: NDArray[np.float64], normal: NDArray[np.float64], pixel: float) -> None:
    """Check that slices lie above each other, or ever further to one side as with a tilted gantry."""
    usual = positions[0] + np.linspace(0, 1, len(positions))[:, None] * (positions[-1] - positions[0])
    aside = positions - usual
    aside = np.linalg.norm(aside - (aside @ normal)[:, None] * normal, axis=1)
    furthest = int(aside.argmax())
    if aside[furthest] > pixel:
        raise Unreadable(
            f"the slices do not lie above each other: slice {furthest + 1} of {len(positions)} lies "
            f"{aside[furthest]:.2f} mm aside of the line through the first and the last: split the series"
        )


def _affine(columns: NDArray[np.float64]) -> NDArray[np.float64]:
    """Make the affine of planes in their order: index (z, y, x) to RAS mm."""
    affine = np.eye(4)
    affine[:3] = columns[0].T
    if len(columns) > 1:
        affine[:3, 0] = (columns[-1, 3] - columns[0, 3]) / (len(columns) - 1)
    return _LPS_TO_RAS @ affine
