"""Read DICOM: single frames, multi-frame objects, and series of slices as one volume."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from typing import ClassVar

import numpy as np
import pydicom
from numpy.typing import NDArray
from pydicom import config
from pydicom._uid_dict import UID_dictionary
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing, pixel_array
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    RLELossless,
)

from tasks.cohort.modalities import MODALITIES
from tasks.cohort.readers.codestreams import check_codestream
from tasks.cohort.reading import (
    Declared,
    Decoded,
    Reader,
    Request,
    Unreadable,
    Window,
    WindowConfig,
    check_decoded,
    check_frames,
    check_length,
)

config.settings.reading_validation_mode = config.IGNORE  # its remarks quote what they remark on

# DICOM's patient axes point left and posterior, RAS points right and anterior.
_LPS_TO_RAS = np.diag([-1.0, -1.0, 1.0, 1.0])
_SPACING_TOLERANCE = 0.1

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
        """Refuse what has no pixels, too many frames, or is deflated."""
        _refuse_deflated(data)
        header = pydicom.dcmread(BytesIO(data), force=True, stop_before_pixels=True)
        if header.get("Rows") is None:
            raise _without_pixels(header)
        modality = str(header.get("Modality", ""))
        return Declared(
            _count(header),
            str(header.get("SeriesInstanceUID", "")),
            modality if modality in MODALITIES else "",  # anything else might be of a patient
        )

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse slices that do not make one volume."""
        datasets = [_dataset(part) for part in parts]
        check_decoded(4 * sum(_count(dataset) for dataset in datasets), request.largest)
        frames = [frame for dataset in datasets for frame in _frames(dataset, request.window)]
        sizes = {frame.values.shape for frame in frames}
        if len(sizes) > 1:
            raise Unreadable(f"the slices differ in size: {sorted(sizes)}: split the series into one folder a volume")
        located = all(frame.columns is not None for frame in frames)
        if len(frames) > 1 and not located:
            if len(datasets) > 1:
                raise Unreadable("slices without ImagePositionPatient cannot be ordered: export them again with it")
            return Decoded(_stack(frames))
        frames = _ordered(frames)
        return Decoded(_stack(frames), _affine(frames) if located else None)


@dataclass(frozen=True)
class _Frame:
    """One slice: `values` ``(y, x[, channel])``; `columns` are the mm steps of (z, y, x) and the origin, in LPS."""

    values: NDArray[np.float32]
    columns: NDArray[np.float64] | None

    @property
    def height(self) -> float:
        """The position along the slice normal in mm."""
        assert self.columns is not None
        normal = np.cross(self.columns[2], self.columns[1])
        return float(self.columns[3] @ normal / np.linalg.norm(normal))


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
    return dataset


def _frames(dataset: Dataset, window: WindowConfig) -> Iterator[_Frame]:
    count = int(dataset.get("NumberOfFrames", 1) or 1)
    _check_pixel_data(dataset, count)
    jpeg2000 = dataset.file_meta.TransferSyntaxUID in JPEG2000TransferSyntaxes
    stored = pixel_array(dataset, decoding_plugin="pylibjpeg" if jpeg2000 else "")  # GDCM ends the process on damage
    stored = stored if count > 1 else stored[None]
    shared = dataset.get("SharedFunctionalGroupsSequence", [Dataset()])[0]
    by_frame = dataset.get("PerFrameFunctionalGroupsSequence", [Dataset()] * count)
    for number, (frame, own) in enumerate(zip(stored, by_frame, strict=True)):
        yield _Frame(_values(frame, dataset, shared, own, window), _columns(dataset, shared, own, number))


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


def _values(
    stored: NDArray[np.generic], dataset: Dataset, shared: Dataset, own: Dataset, window: WindowConfig
) -> NDArray[np.float32]:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _eight_bit(apply_color_lut(stored, dataset))
    if dataset.get("SamplesPerPixel", 1) > 1:
        return stored.astype(np.float32)
    lut = Dataset()
    lut.update(dataset.group_dataset(0x0028))
    for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        for group in (shared, own):
            if sequence in group:
                lut.update(group[sequence].value[0])
    values = apply_modality_lut(stored, lut)
    low, high = _stored_range(dataset)
    limits = apply_modality_lut(np.array([low, high]), lut) if "ModalityLUTSequence" not in lut else None
    if limits is not None and limits[0] > limits[1]:  # pydicom's windows would run from bright to dark
        slope = -float(lut.RescaleSlope)
        lut.RescaleSlope, lut.RescaleIntercept = slope, float(limits[1]) - low * slope
    if isinstance(window, Window):
        lut.WindowCenter, lut.WindowWidth = window.center, window.width
        lut.VOILUTFunction = "LINEAR_EXACT"  # the default function takes no width below 1
        values = apply_windowing(values, lut)
    elif window == "file":
        values = apply_voi_lut(values, lut)
        if "VOILUTSequence" in lut:
            limits = np.array([0, 2 ** int(lut.VOILUTSequence[0].LUTDescriptor[2]) - 1])
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        limits = np.array([values.min(), values.max()]) if limits is None else limits
        values = limits.sum() - values
    return values.astype(np.float32)


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def _eight_bit(colour: NDArray[np.generic]) -> NDArray[np.float32]:
    values = colour[..., :3].astype(np.float32)
    return values / np.float32(257) if colour.dtype == np.uint16 else values


def _columns(dataset: Dataset, shared: Dataset, own: Dataset, number: int) -> NDArray[np.float64] | None:
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


def _ordered(frames: list[_Frame]) -> list[_Frame]:
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


def _affine(frames: list[_Frame]) -> NDArray[np.float64]:
    first, last = frames[0].columns, frames[-1].columns
    assert first is not None and last is not None
    affine = np.eye(4)
    affine[:3] = first.T
    if len(frames) > 1:
        affine[:3, 0] = (last[3] - first[3]) / (len(frames) - 1)
    return _LPS_TO_RAS @ affine


def _stack(frames: list[_Frame]) -> NDArray[np.float32]:
    volume = np.stack([frame.values for frame in frames])
    volume = np.moveaxis(volume, -1, 0) if volume.ndim == 4 else volume[None]
    return np.ascontiguousarray(volume)


def _without_pixels(dataset: Dataset) -> Unreadable:
    uid = dataset.get("SOPClassUID")
    if uid is None:
        return Unreadable("damaged DICOM, it does not even say what it is: copy it again from its source")
    known = UID_dictionary.get(str(uid))  # what is not in the standard's list may be anything
    return Unreadable(
        f"DICOM without pixels ({known[0] if known else 'of an unknown kind'}): leave it out of the cohort"
    )
