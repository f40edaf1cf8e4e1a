"""Where the planes of DICOM lie in the patient: their positions, their order, the affine of a volume."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tasks.cohort.reading import Unreadable

# DICOM's patient axes point left and posterior, RAS points right and anterior.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACING_TOLERANCE = 0.1


@dataclass(frozen=True)
class Plane:
    """One slice: `values` ``(y, x[, channel])``; `columns` are the mm steps of (z, y, x) and the origin, in LPS."""

    values: NDArray[np.float32]
    columns: NDArray[np.float64] | None

    @property
    def height(self) -> float:
        """The position along the slice normal in mm."""
        assert self.columns is not None
        normal = np.cross(self.columns[2], self.columns[1])
        return float(self.columns[3] @ normal / np.linalg.norm(normal))


def plane_columns(dataset: Dataset, shared: Dataset, own: Dataset, number: int) -> NDArray[np.float64] | None:
    def lookup(sequence: str, keyword: str) -> NDArray[np.float64] | None:
        for group in (own, shared):
            if sequence in group and keyword in group[sequence].value[0]:
                return np.atleast_1d(np.array(group[sequence].value[0][keyword].value, dtype=float))
        value = dataset.get(keyword)
        return None if value in (None, "") else np.atleast_1d(np.array(value, dtype=float))

    position = lookup("PlanePositionSequence", "ImagePositionPatient")
    orientation = lookup("PlaneOrientationSequence", "ImageOrientationPatient")
    spacing = lookup("PixelMeasuresSequence", "PixelSpacing")
    if position is None or orientation is None or spacing is None:
        return None
    along_row, along_column = orientation[:3], orientation[3:]
    thickness = lookup("PixelMeasuresSequence", "SpacingBetweenSlices")
    if thickness is None:
        thickness = lookup("PixelMeasuresSequence", "SliceThickness")
    step = np.cross(along_row, along_column) * (1.0 if thickness is None else abs(thickness[0]) or 1.0)
    if number and "PlanePositionSequence" not in own:
        if thickness is None:
            return None
        position = position + number * step
    return np.stack([step, along_column * spacing[0], along_row * spacing[1], position])


def ordered(frames: list[Plane]) -> list[Plane]:
    if len(frames) == 1:
        return frames
    first = frames[0].columns
    assert first is not None
    for frame in frames:
        assert frame.columns is not None
        if not np.allclose(frame.columns[1:3], first[1:3], atol=1e-3):
            raise Unreadable("the slices differ in orientation or pixel spacing: split the series by orientation")
    frames = sorted(frames, key=lambda frame: frame.height)
    gaps = np.diff([frame.height for frame in frames])
    usual = float(np.median(gaps))
    if usual <= 0 or gaps.min() <= 0:
        raise Unreadable("two slices lie at the same position: split the series by time point or echo")
    uneven = int(np.argmax(np.abs(gaps - usual)))
    if abs(gaps[uneven] - usual) > _SPACING_TOLERANCE * usual:
        raise Unreadable(
            f"the slices are not evenly spaced: {usual:.2f} mm apart, but {gaps[uneven]:.2f} mm "
            f"between slices {uneven + 1} and {uneven + 2} of {len(frames)}: a slice may be missing"
        )
    return frames


def affine_of(frames: list[Plane]) -> NDArray[np.float64]:
    first, last = frames[0].columns, frames[-1].columns
    assert first is not None and last is not None
    affine = np.eye(4)
    affine[:3] = first.T
    if len(frames) > 1:
        affine[:3, 0] = (last[3] - first[3]) / (len(frames) - 1)
    return _LPS_TO_RAS @ affine
