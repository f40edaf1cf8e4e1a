"""Read DICOM: single frames, multi-frame objects, and series of slices as one volume."""

import math
from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import ClassVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    RLELossless,
)

from tasks.cohort.modalities import MODALITIES
from tasks.cohort.readers.codestreams import check_codestream
from tasks.cohort.readers.dicom_pixels import plane_values
from tasks.cohort.readers.dicom_planes import Plane, arranged, plane_columns, slice_orientation
from tasks.cohort.readers.dicom_series import check_one_volume, frame_count, is_localizer, refuse_part, series_of
from tasks.cohort.reading import (
    Declared,
    Decoded,
    NoImage,
    Reader,
    Request,
    Unreadable,
    WindowConfig,
    check_decoded,
    check_frames,
    check_length,
)

config.settings.reading_validation_mode = config.IGNORE  # its remarks quote what they remark on

_FIRST_ELEMENTS = (b"\x02\x00\x00\x00", b"\x08\x00\x05\x00", b"\x08\x00\x08\x00")
"""Tags that a file without a preamble begins with."""

_META = 2**14
"""The transfer syntax is named within this many bytes from the beginning."""


class Dicom(Reader):
    """The reader of DICOM: one object, or the slices of one series ordered by their position in the patient.

    Values are rescaled (modality LUT), then windowed if asked, and MONOCHROME1 is inverted, so that larger
    always means brighter.
    """

    formats: ClassVar = {"dicom": "DICOM"}
    joins_files = True
    loggers = ("pydicom",)

    def recognise(self, data: bytes) -> str | None:
        """Recognise the preamble, or the first element where the preamble was left out."""
        return "dicom" if data[128:132] == b"DICM" or data[:4] in _FIRST_ELEMENTS else None

    def header(self, data: bytes) -> Declared:
        """Refuse what has no pixels, too many frames, is deflated, or a part of a larger object."""
        _refuse_deflated(data)
        header = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True)
        if header.get("Rows") is None:
            raise _without_pixels(header)
        refuse_part(header)
        series = series_of(header)
        modality = str(header.get("Modality", ""))
        return Declared(
            _count(header),
            series,
            modality if modality in MODALITIES else "",  # anything else might be of a patient
            _text(header, "PatientID"),
            _text(header, "IssuerOfPatientID"),
            frame_count(header),
            slice_orientation(header) if series else (),
        )

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse slices that do not make one volume; of a slice that is there in several copies, one is taken."""
        datasets = [_dataset(part) for part in dict.fromkeys(parts)]
        check_one_volume(datasets)
        check_decoded(4 * sum(_count(dataset) for dataset in datasets), request.largest)
        planes = [plane for dataset in datasets for plane in _planes(dataset, request.window)]
        sizes = {plane.values.shape for plane in planes}
        if len(sizes) > 1:
            raise Unreadable(f"the slices differ in size: {sorted(sizes)}: split the series into one folder a volume")
        if request.spatial_dims == 3 and len(planes) == 1 and is_localizer(datasets[0]):
            raise Unreadable("a localizer (ImageType) of one picture, but the model takes volumes: leave it out")
        planes, affine = arranged(planes, len(datasets))
        return Decoded(_stack(planes), affine)


def _text(header: Dataset, tag: str) -> str:
    """Read a text as it is stored, without the blanks and NULs that pad it."""
    value = header.get(tag) or ""
    text = value if isinstance(value, str) else "\\".join(map(str, value))  # what holds a backslash comes as a list
    return text.strip(" \0")


def _count(header: Dataset) -> int:
    """Tell how many numbers the pixels are once they are decoded."""
    check_frames(int(header.get("NumberOfFrames", 1) or 1))
    samples = 3 if header.get("PhotometricInterpretation") == "PALETTE COLOR" else header.get("SamplesPerPixel", 1)
    sizes = [int(header.Rows), int(header.Columns), int(header.get("NumberOfFrames", 1) or 1), int(samples or 1)]
    return math.prod(sizes)


def _refuse_deflated(data: bytes) -> None:
    """Refuse files that are compressed as a whole, since pydicom inflates them whatever that takes."""
    if DeflatedExplicitVRLittleEndian.encode() in data[:_META]:
        raise Unreadable("a DICOM file that is deflated as a whole: store it with any other transfer syntax")


def _dataset(data: bytes) -> Dataset:
    _refuse_deflated(data)
    dataset = pydicom.dcmread(BytesIO(data), force=True)
    if "TransferSyntaxUID" not in dataset.file_meta:  # only uncompressed files may leave it out
        implicit, _ = dataset.original_encoding
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian
    if "PixelData" not in dataset:
        raise _without_pixels(dataset)
    refuse_part(dataset)
    return dataset


def _planes(dataset: Dataset, window: WindowConfig) -> Iterator[Plane]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    _check_pixel_data(dataset, count)
    jpeg2000 = dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes
    stored = pixel_array(dataset, decoding_plugin="pylibjpeg" if jpeg2000 else "")  # GDCM ends the process on damage
    stored = stored if count > 1 else stored[None]
    shared = dataset.get("SharedFunctionalGroupsSequence", [Dataset()])[0]
    by_frame = dataset.get("PerFrameFunctionalGroupsSequence", [Dataset()] * count)
    for number, (frame, own) in enumerate(zip(stored, by_frame, strict=True)):
        yield Plane(plane_values(frame, dataset, shared, own, window), plane_columns(dataset, shared, own, number))


def _check_pixel_data(dataset: Dataset, count: int) -> None:
    """Check that the pixel data are as large as the header says, since decoders allocate by either."""
    rows, columns, syntax = int(dataset.Rows), int(dataset.Columns), dataset.file_meta.TransferSyntaxUID
    if syntax.is_encapsulated:
        if syntax != RLELossless:
            for frame in generate_frames(dataset.PixelData, number_of_frames=count):
                check_codestream(frame, rows, columns)
        return
    is_halved = dataset.get("PhotometricInterpretation") == "YBR_FULL_422"
    values = rows * columns * count * int(dataset.get("SamplesPerPixel", 1))
    bits = values * int(dataset.BitsAllocated) * (2 if is_halved else 3) // 3
    check_length(bits // 8, len(dataset.PixelData))


def _stack(planes: list[Plane]) -> NDArray[np.float32]:
    volume = np.stack([plane.values for plane in planes])
    volume = np.moveaxis(volume, -1, 0) if volume.ndim == 4 else volume[None]
    return np.ascontiguousarray(volume)


def _without_pixels(dataset: Dataset) -> Unreadable:
    uid = dataset.get("SOPClassUID") or dataset.file_meta.get("MediaStorageSOPClassUID")  # a DICOMDIR has the latter
    if uid is None:
        return Unreadable("damaged DICOM, it does not even say what it is: copy it again from its source")
    known = UID_dictionary.get(str(uid))  # what is not in the standard's list may be anything
    if known and known[0].endswith("Image Storage"):
        return Unreadable(f"damaged DICOM, an image without its pixels ({known[0]}): copy it again from its source")
    return NoImage(f"DICOM without pixels ({known[0] if known else 'of an unknown kind'}): leave it out of the cohort")
