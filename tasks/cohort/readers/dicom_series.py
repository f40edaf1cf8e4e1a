"""The part that a DICOM file has in a series: a slice of a volume, a whole volume, or a localizer."""

from collections.abc import Sequence
from typing import NamedTuple

from pydicom.dataset import Dataset

from tasks.cohort.readers.dicom_stored import frame_count
from tasks.cohort.reading import Unreadable


def series_of(header: Dataset) -> str:
    """Name the series whose other files make one volume with this one; empty if the file is an image of its own."""
    if frame_count(header) > 1 or is_localizer(header):
        return ""
    return str(header.get("SeriesInstanceUID") or "")


def is_localizer(header: Dataset) -> bool:
    return "LOCALIZER" in (header.get("ImageType") or "")


def refuse_part(header: Dataset) -> None:
    """Refuse a part of a multi-frame object that was cut into several files, and the slices of a volume in one picture.

    A mosaic has the position of its own corner, where none of its slices lies.
    """
    if header.get("Modality") == "MR" and "MOSAIC" in (header.get("ImageType") or ""):
        raise Unreadable("a mosaic (ImageType): the slices of a volume side by side: convert it to NIfTI (dcm2niix)")
    if header.get("ConcatenationUID") and header.get("InConcatenationTotalNumber") != 1:
        raise Unreadable(
            "a part of a multi-frame object that was cut into several files (ConcatenationUID): join these into one"
        )


class Part(NamedTuple):
    """The part that a file has in its series, by its number of frames and its UIDs."""

    frames: int
    series: str
    instance: str
    is_localizer: bool


def part_of(header: Dataset) -> Part:
    series, instance = (str(header.get(uid) or "") for uid in ("SeriesInstanceUID", "SOPInstanceUID"))
    return Part(frame_count(header), series, instance, is_localizer(header))


def check_one_volume(parts: Sequence[Part]) -> None:
    """Check that files can be the slices of one volume.

    Raises
    ------
    Unreadable
        If they are of several series, hold several frames each, or if an instance is there twice.
    """
    if len(parts) == 1:
        return
    if whole := sum(part.frames > 1 for part in parts):
        raise Unreadable(
            f"{len(parts)} files for one image, but {whole} of them hold several frames, and each of these is an "
            "image of its own: name the one file"
        )
    if (series := len({part.series for part in parts})) > 1:
        raise Unreadable(f"slices of {series} series for one image: name the folder of one")
    instances = [part.instance for part in parts if part.instance]
    if twice := len(instances) - len(set(instances)):
        raise Unreadable(
            f"{twice} of {len(parts)} slices carry the SOPInstanceUID of another one, and hold something else: keep "
            "the right one of each"
        )
