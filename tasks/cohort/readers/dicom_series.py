"""The part that a DICOM file has in a series: a slice of a volume, a whole volume, or a localizer."""

from collections.abc import Sequence

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
    """Refuse a part of a multi-frame object that was cut into several files."""
    if header.get("ConcatenationUID") and header.get("InConcatenationTotalNumber") != 1:
        raise Unreadable(
            "a part of a multi-frame object that was cut into several files (ConcatenationUID): join these into one"
        )


def check_one_volume(datasets: Sequence[Dataset]) -> None:
    """Check that files can be the slices of one volume.

    Raises
    ------
    Unreadable
        If they are of several series, hold several frames each, or if an instance is there twice.
    """
    if len(datasets) == 1:
        return
    if whole := sum(frame_count(dataset) > 1 for dataset in datasets):
        raise Unreadable(
            f"{len(datasets)} files for one image, but {whole} of them hold several frames, and each of these is an "
            "image of its own: name the one file"
        )
    series = {str(dataset.get("SeriesInstanceUID") or "") for dataset in datasets}
    if len(series) > 1:
        raise Unreadable(f"slices of {len(series)} series for one image: name the folder of one")
    instances = [uid for dataset in datasets if (uid := str(dataset.get("SOPInstanceUID") or ""))]
    if twice := len(instances) - len(set(instances)):
        raise Unreadable(
            f"{twice} of {len(datasets)} slices carry the SOPInstanceUID of another one, and hold something else: keep "
            "the right one of each"
        )
