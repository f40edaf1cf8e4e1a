"""Read DICOM: single frames, multi-frame objects, and series of slices as one volume."""

from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tasks.cohort.modalities import MODALITIES
from tasks.cohort.readers.dicom_elements import first_item
from tasks.cohort.readers.dicom_parsing import DicomHeader, begins_dicom, dataset_of, header_of
from tasks.cohort.readers.dicom_pixels import brightness, plane_values
from tasks.cohort.readers.dicom_planes import Plane, affine_of, ordered, plane_columns
from tasks.cohort.readers.dicom_stored import (
    photometric,
    stored_frames,
    value_count,
)
from tasks.cohort.reading import Declared, Decoded, Reader, Request, Unreadable, WindowConfig, check_decoded

_LARGEST_STORED = 8
"""No stored value has more bytes."""

_BESIDE_PIXELS = 2**16
"""A file may hold this many bytes after its pixels."""


class Dicom(Reader):
    """The reader of DICOM: one object, or the slices of one series ordered by their position in the patient.

    Values are rescaled (modality LUT), then windowed if asked, and MONOCHROME1 is inverted, so that larger
    always means brighter; padding is as dark as the darkest of the rest.
    """

    formats: ClassVar = {"dicom": "DICOM"}
    joins_files = True
    loggers = ("pydicom",)

    def recognise(self, data: bytes) -> str | None:
        """Recognise the preamble, or the first elements where the preamble was left out."""
        return "dicom" if begins_dicom(data) else None

    def header(self, data: bytes) -> Declared:
        """Refuse what has no pixels, too many frames, or more beside them than an image needs."""
        header = _with_pixels(header_of(data))
        modality = str(header.get("Modality", ""))
        return Declared(
            value_count(header),
            str(header.get("SeriesInstanceUID", "")),
            modality if modality in MODALITIES else "",  # anything else might be of a patient
        )

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse slices that do not make one volume."""
        described = [_described(part) for part in parts]
        check_decoded(4 * sum(one.values for one in described), request.largest)
        inverted = {one.inverted for one in described}
        if len(inverted) > 1:
            raise Unreadable("some slices are MONOCHROME1, others not: split the series by PhotometricInterpretation")
        frames = [
            frame
            for part, one in zip(parts, described, strict=True)
            for frame in _frames(dataset_of(part, one.length), request.window)
        ]
        sizes = {frame.values.shape for frame in frames}
        if len(sizes) > 1:
            raise Unreadable(f"the slices differ in size: {sorted(sizes)}: split the series into one folder a volume")
        located = all(frame.columns is not None for frame in frames)
        if len(frames) > 1 and not located:
            if len(parts) > 1:
                raise Unreadable("slices without ImagePositionPatient cannot be ordered: export them again with it")
            return Decoded(_pixels(frames, any(inverted), request.window))
        frames = ordered(frames)
        return Decoded(_pixels(frames, any(inverted), request.window), affine_of(frames) if located else None)


def _with_pixels(header: DicomHeader) -> Dataset:
    """Check that there are pixels; what else there is says what it is."""
    if header.has_pixels:
        return header.dataset
    uid = header.dataset.get("SOPClassUID") or header.dataset.file_meta.get("MediaStorageSOPClassUID")
    if not uid:
        raise Unreadable("damaged DICOM, it does not even say what it is: copy it again from its source")
    name = UID(str(uid)).name
    known = name != str(uid)  # what is not in the standard's list may be anything
    raise Unreadable(f"DICOM without pixels ({name if known else 'of an unknown kind'}): leave it out of the cohort")


class _Described(NamedTuple):
    values: int
    inverted: bool
    length: int


def _described(part: bytes) -> _Described:
    header = header_of(part)
    values = value_count(_with_pixels(header))
    inverted = photometric(header.dataset) == "MONOCHROME1"
    return _Described(values, inverted, header.length + _LARGEST_STORED * values + _BESIDE_PIXELS)


def _frames(dataset: Dataset, window: WindowConfig) -> Iterator[Plane]:
    stored = stored_frames(dataset)
    shared = first_item(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    by_frame = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * len(stored)
    if len(by_frame) != len(stored) > 1:
        raise Unreadable(
            f"NumberOfFrames is {len(stored)}, but PerFrameFunctionalGroupsSequence has {len(by_frame)} items: "
            "export the file again"
        )
    for number, (frame, own) in enumerate(zip(stored, by_frame, strict=False)):
        yield Plane(plane_values(frame, dataset, shared, own, window), plane_columns(dataset, shared, own, number))


def _pixels(frames: list[Plane], inverted: bool, window: WindowConfig) -> NDArray[np.float32]:
    volume = np.stack([frame.values for frame in frames])
    if volume.ndim == 4:
        return np.ascontiguousarray(np.moveaxis(volume, -1, 0))
    return brightness(volume, inverted, window)[None]
