"""The frames of a multi-frame object: its pictures, and the volumes that they make, one a time point."""

from collections.abc import Sequence

from pydicom.dataset import Dataset

from tasks.cohort.readers.dicom_elements import first_item, whole_number
from tasks.cohort.readers.dicom_segments import is_segmentation
from tasks.cohort.readers.dicom_stored import frame_count
from tasks.cohort.reading import Counts, Request

Groups = Sequence[Sequence[int]]
"""Numbers of frames, counted from 0, by the picture or volume that they make together."""


def counts_of(header: Dataset) -> Counts:
    """Count the pictures and the volumes of an object."""
    return Counts(len(_frames(header, 2)), len(_frames(header, 3)))


def wanted(header: Dataset, request: Request) -> Groups:
    """Group the frames that a request is about; more than one group: each is a channel, or has some."""
    frames = _frames(header, request.spatial_dims)
    if request.frame is not None:
        return [frames[request.frame - 1]]
    return frames if request.as_channels else [[*range(frame_count(header))]]


def _frames(header: Dataset, spatial_dims: int) -> Groups:
    whole = [*range(frame_count(header))]
    if is_segmentation(header):  # frames are parts of one label map
        return [whole]
    return [[number] for number in whole] if spatial_dims == 2 else _time_points(header, whole)


def _time_points(header: Dataset, whole: list[int]) -> Groups:
    """Group frames by TemporalPositionIndex; all are one group where it is missing, or parts them into unequal ones."""
    by_frame = header.get("PerFrameFunctionalGroupsSequence") or []
    times = [_time(own) for own in by_frame]
    if len(times) != len(whole) or None in times:
        return [whole]
    points = sorted({time for time in times if time is not None})
    groups = [[number for number in whole if times[number] == point] for point in points]
    return groups if len({len(group) for group in groups}) == 1 else [whole]


def _time(own: Dataset) -> int | None:
    content = first_item(own, "FrameContentSequence")
    if content is None or not content.get("TemporalPositionIndex"):
        return None
    return whole_number(content, "TemporalPositionIndex")
