"""Read DICOM: single frames, multi-frame objects, and series of slices as one volume."""

from collections import deque
from collections.abc import Sequence
from itertools import chain
from typing import ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import UID

from tasks.cohort.modalities import MODALITIES
from tasks.cohort.readers.dicom_elements import first_item
from tasks.cohort.readers.dicom_frames import Groups, counts_of, wanted
from tasks.cohort.readers.dicom_parsing import MEMORY, DicomHeader, begins_dicom, dataset_of, header_of, with_pixels
from tasks.cohort.readers.dicom_pixels import brightness, plane_values
from tasks.cohort.readers.dicom_planes import Plane, arranged, plane_columns, slice_orientation
from tasks.cohort.readers.dicom_segments import is_segmentation, label_map, segment_of, spacing_of
from tasks.cohort.readers.dicom_series import Part, check_one_volume, part_of, refuse_part, series_of
from tasks.cohort.readers.dicom_stored import (
    frame_count,
    photometric,
    stored_frames,
    value_count,
)
from tasks.cohort.reading import Declared, Decoded, NoImage, Reader, Request, Unreadable, WindowConfig, check_decoded

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
        """Refuse what has no pixels, too many frames, more beside them than an image needs, or is part of an object."""
        header = _header(data).dataset
        series = series_of(header)
        modality = str(header.get("Modality", ""))
        return Declared(
            value_count(header),
            series,
            modality if modality in MODALITIES else "",  # anything else might be of a patient
            _text(header, "PatientID"),
            _text(header, "IssuerOfPatientID"),
            frame_count(header),
            slice_orientation(header) if series else (),
            counts_of(header),
        )

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse slices that do not make one volume; of a slice that is there in several copies, one is taken."""
        parts = list(dict.fromkeys(parts)) if len(parts) > 1 else parts
        described, headers = _all_described(parts, request)
        check_one_volume([one.part for one in described])
        check_decoded(4 * sum(one.values for one in described), request.largest)
        inverted = {one.inverted for one in described}
        if len(inverted) > 1:
            raise Unreadable("some slices are MONOCHROME1, others not: split the series by PhotometricInterpretation")
        planes = [
            plane
            for part, one in zip(parts, described, strict=True)
            for plane in _planes(_dataset(part, one, headers.popleft()), [*chain(*one.groups)], request)
        ]
        sizes = {plane.values.shape for plane in planes}
        if len(sizes) > 1:
            raise Unreadable(f"the slices differ in size: {sorted(sizes)}: split the series into one folder a volume")
        if request.spatial_dims == 3 and len(planes) == 1 and described[0].part.is_localizer:
            raise Unreadable("a localizer (ImageType) of one picture, but the model takes volumes: leave it out")
        if len(described[0].groups) > 1:
            return _as_channels(planes, len(described[0].groups), any(inverted), request.window)
        planes, affine = arranged(planes, len(parts))
        return Decoded(_pixels(planes, any(inverted), request.window), affine)


def _header(data: bytes) -> DicomHeader:
    """Read all that comes before the pixels."""
    header = header_of(data)
    if not header.has_pixels:
        raise _without_pixels(header.dataset)
    refuse_part(header.dataset)
    return header


class _Described(NamedTuple):
    """A header, as far as it is needed once its pixels are decoded: it may be much larger than these."""

    values: int
    inverted: bool
    length: int
    part: Part
    groups: Groups


def _all_described(parts: Sequence[bytes], request: Request) -> tuple[list[_Described], deque[DicomHeader | None]]:
    """Describe each file; headers are kept as long as all of them together take no more memory than one may."""
    described, headers, memory = [], deque[DicomHeader | None](), 0
    for part in parts:
        header = _header(part)
        described.append(_described(header.dataset, header.length, request))
        memory += header.memory
        headers.append(None if memory > MEMORY or header.is_inflated else header)
    return described, headers


def _described(header: Dataset, begin: int, request: Request) -> _Described:
    values = value_count(header)
    length = begin + _LARGEST_STORED * values + _BESIDE_PIXELS
    groups = wanted(header, request)
    asked = values * sum(map(len, groups)) // frame_count(header)
    return _Described(asked, photometric(header) == "MONOCHROME1", length, part_of(header), groups)


def _dataset(data: bytes, described: _Described, header: DicomHeader | None) -> Dataset:
    """Parse a file whole; of one whose header was kept, what is left."""
    return with_pixels(header, data) if header else dataset_of(data, described.length)


def _text(header: Dataset, tag: str) -> str:
    """Read a text as it is stored, without the blanks and NULs that pad it."""
    value = header.get(tag) or ""
    text = value if isinstance(value, str) else "\\".join(map(str, value))  # what holds a backslash comes as a list
    return text.strip(" \0")


def _planes(dataset: Dataset, numbers: Sequence[int], request: Request) -> list[Plane]:
    """Decode some frames, by their numbers counted from 0."""
    stored = stored_frames(dataset, numbers)
    frames = frame_count(dataset)
    shared = first_item(dataset, "SharedFunctionalGroupsSequence") or Dataset()
    by_frame = dataset.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * frames
    if len(by_frame) != frames > 1:
        raise Unreadable(
            f"NumberOfFrames is {frames}, but PerFrameFunctionalGroupsSequence has {len(by_frame)} items: "
            "export the file again"
        )
    planes = [
        Plane(
            plane_values(frame, dataset, shared, by_frame[number], request.window),
            plane_columns(dataset, shared, by_frame[number], number),
        )
        for number, frame in zip(numbers, stored, strict=True)
    ]
    if not is_segmentation(dataset):
        return planes
    segments = [segment_of(shared, own) for _, own in zip(stored, by_frame, strict=False)]
    is_binary = dataset.get("SegmentationType") == "BINARY"
    spacing = spacing_of(shared, by_frame[0])
    return label_map(planes, segments, spacing, is_binary=is_binary, largest=request.largest)


def _as_channels(planes: Sequence[Plane], count: int, inverted: bool, window: WindowConfig) -> Decoded:
    """Make `count` frames the channels of one image, with the values that they have together."""
    size = len(planes) // count
    frames = [arranged([*planes[first : first + size]], 1) for first in range(0, len(planes), size)]
    pixels = _pixels([plane for ordered, _ in frames for plane in ordered], inverted, window)
    channels, _, *sides = pixels.shape
    by_frame = np.moveaxis(pixels.reshape(channels, count, size, *sides), 1, 0)
    return Decoded(np.ascontiguousarray(by_frame).reshape(-1, size, *sides), frames[count // 2][1])


def _pixels(planes: list[Plane], inverted: bool, window: WindowConfig) -> NDArray[np.float32]:
    volume = np.stack([plane.values for plane in planes])
    if volume.ndim == 4:
        return np.ascontiguousarray(np.moveaxis(volume, -1, 0))
    return brightness(volume, inverted, window)[None]


def _without_pixels(dataset: Dataset) -> Unreadable:
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")
    if not uid:
        return Unreadable("damaged DICOM, it does not even say what it is: copy it again from its source")
    name = UID(str(uid)).name
    known = name if name != str(uid) else ""  # what is not in the standard's list may be anything
    if known.endswith("Image Storage"):
        return Unreadable(f"damaged DICOM, an image without its pixels ({known}): copy it again from its source")
    return NoImage(f"DICOM without pixels ({known or 'of an unknown kind'}): leave it out of the cohort")
