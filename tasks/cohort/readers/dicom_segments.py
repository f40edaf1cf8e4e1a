"""DICOM segmentations: a frame for each segment and slice, where frames without a finding may be left out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SegmentationStorage

from tasks.cohort.readers.dicom_elements import first_item, number, whole_number
from tasks.cohort.readers.dicom_planes import Plane
from tasks.cohort.reading import Unreadable, check_decoded, check_frames

_OFF_GRID = 0.1
"""Share of the distance between slices by which a frame may lie aside of them."""


def is_segmentation(dataset: Dataset) -> bool:
    return bool(dataset.get("SOPClassUID") == SegmentationStorage)


def segment_of(shared: Dataset, own: Dataset) -> int:
    """Number the segment of a frame; 1 if the file does not say."""
    for groups in (own, shared):
        item = first_item(groups, "SegmentIdentificationSequence")
        if item is not None:
            return whole_number(item, "ReferencedSegmentNumber", 1)
    return 1


def spacing_of(shared: Dataset, own: Dataset) -> float | None:
    """Read the distance between slices in mm, which frames need not show where some were left out."""
    for groups in (own, shared):
        item = first_item(groups, "PixelMeasuresSequence")
        spacing = number(item, "SpacingBetweenSlices") if item is not None else None
        if spacing:
            return abs(spacing)
    return None


def label_map(
    planes: Sequence[Plane], segments: Sequence[int], spacing: float | None, *, is_binary: bool, largest: int
) -> list[Plane]:
    """Join the frames of all segments to one plane a slice, and put empty planes where frames were left out.

    Parameters
    ----------
    planes
        The frames.
    segments
        The number of each frame's segment, which marks its places in a binary segmentation.
    spacing
        The distance between slices in mm; None: the smallest between frames.
    largest
        Bytes that the pixels may take as float32.

    Raises
    ------
    Unreadable
        If segments overlap, several are fractional or without a place, or the volume would be larger.
    """
    if len(set(segments)) > 1 and not is_binary:
        raise Unreadable(f"a fractional segmentation of {len(set(segments))} segments: write a file for each of them")
    if is_binary:
        planes = [
            replace(plane, values=(plane.values != 0) * np.float32(segment))
            for plane, segment in zip(planes, segments, strict=True)
        ]
    heights = _heights(planes)
    gaps = np.diff(np.unique(np.round(heights, 3)))
    if len(planes) == 1:
        return list(planes)
    spacing = spacing or (float(gaps.min()) if len(gaps) else 1.0)
    places = np.rint(heights / spacing)
    if not np.abs(heights / spacing - places).max() <= _OFF_GRID:  # NaN without places
        if len(set(segments)) > 1:
            raise Unreadable(
                "a segmentation of several segments whose frames do not lie at whole distances (SpacingBetweenSlices), "
                "or do not say where they lie: write a file for each of them"
            )
        return list(planes)
    count = int(places.max()) + 1
    check_frames(count)
    check_decoded(planes[0].values.nbytes * count, largest)
    joined = [np.zeros_like(planes[0].values) for _ in range(count)]
    for plane, place in zip(planes, places.astype(int), strict=True):
        if (joined[place].astype(bool) & plane.values.astype(bool)).any():
            raise Unreadable("the segments of the segmentation overlap: write a file for each of them")
        joined[place] += plane.values
    first = planes[int(heights.argmin())].columns
    assert isinstance(first, np.ndarray)
    step = spacing * first[0] / np.linalg.norm(first[0])
    return [Plane(values, first + np.outer([0, 0, 0, number], step)) for number, values in enumerate(joined)]


def _heights(planes: Sequence[Plane]) -> NDArray[np.float64]:
    """Tell how far the frames lie above the lowest of them, in mm; NaN where one does not say where it lies."""
    columns = [plane.columns for plane in planes if isinstance(plane.columns, np.ndarray)]
    if len(columns) < len(planes):
        return np.full(len(planes), np.nan)
    stacked = np.stack(columns)
    normal = stacked[0, 0] / np.linalg.norm(stacked[0, 0])
    heights: NDArray[np.float64] = stacked[:, 3] @ normal
    return heights - heights.min()
