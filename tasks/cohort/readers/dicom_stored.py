"""The numbers that DICOM's pixel data hold, as they are stored: how many there are, and what decodes them."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels import get_decoder
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, RLELossless

from tasks.cohort.readers.codestreams import DECODER_DEPENDENCIES, PLUGIN, check_codestream
from tasks.cohort.readers.dicom_elements import whole_number
from tasks.cohort.reading import Unreadable, check_frames, check_length

_AS_STORED: dict[str, Any] = {"allow_excess_frames": False, "correct_unused_bits": False}

_PIXELS = ("PixelData", "FloatPixelData", "DoubleFloatPixelData")


_MEANINGS = (
    *("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"),
    *("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT"),
)


def frame_count(header: Dataset) -> int:
    """Tell how many frames there are; one where the number is missing, empty or 0.

    Raises
    ------
    Unreadable
        If they are more than any volume has.
    """
    count = whole_number(header, "NumberOfFrames", 1) or 1
    check_frames(count)
    return count


def value_count(header: Dataset) -> int:
    """Tell how many numbers the pixels are once they are decoded."""
    samples = 3 if photometric(header) == "PALETTE COLOR" else whole_number(header, "SamplesPerPixel", 1)
    return math.prod((whole_number(header, "Rows"), whole_number(header, "Columns"), frame_count(header), samples))


def photometric(dataset: Dataset) -> str:
    """Tell what the numbers mean, in DICOM's words."""
    return str(dataset.get("PhotometricInterpretation") or "")


def pixel_keyword(dataset: Dataset) -> str | None:
    """Tell which of the three elements of pixels a data set has."""
    return next((keyword for keyword in _PIXELS if keyword in dataset), None)


def stored_frames(dataset: Dataset, numbers: Sequence[int]) -> NDArray[np.generic]:
    """Decode pixel data: ``(frame, y, x[, channel])``, with bits that are not in use as they are.

    Parameters
    ----------
    numbers
        The frames that are wanted, counted from 0; no other is decoded.

    Raises
    ------
    Unreadable
        If the pixel data are less or more than the header says, are damaged, or mean what is not read.
    """
    _check_description(dataset)
    count, syntax = frame_count(dataset), dataset.file_meta.TransferSyntaxUID
    if not syntax.is_transfer_syntax:
        raise Unreadable("damaged DICOM: TransferSyntaxUID is none that the standard knows")
    if not syntax.is_encapsulated:
        _check_native(dataset, count)
    elif syntax in DECODER_DEPENDENCIES:
        _check_compressed(dataset, count, set(numbers))
    else:
        raise Unreadable(f"DICOM pixels in a transfer syntax that is not read ({_title(dataset)}): decompress them")
    try:
        decoder, are_all = get_decoder(syntax), len(numbers) == count
        indices = [None] if are_all else numbers  # all at once, since a decoder looks for each one from the first on
        found = [decoder.as_array(dataset, index=one, decoding_plugin=PLUGIN, **_AS_STORED) for one in indices]
    except RuntimeError:
        raise Unreadable(
            f"damaged: a compressed frame ({_title(dataset)}) cannot be decoded; copy the file again from its source"
        ) from None
    _, properties = found[0]
    if properties["samples_per_pixel"] == 3 and properties["photometric_interpretation"] != "RGB":
        raise Unreadable("colours whose PhotometricInterpretation says how they were compressed: store them as RGB")
    if not are_all or count == 1:
        return np.stack([frame for frame, _ in found])
    ((frames, _),) = found
    return frames if [*numbers] == [*range(count)] else frames[[*numbers]]


def used_bits(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.generic]:
    """Take the bits that are in use (BitsStored), and their sign; others may hold overlays, or anything.

    JPEG 2000 and JPEG-LS say themselves which bits are in use, and pydicom heeds them.

    Raises
    ------
    Unreadable
        If HighBit says that other bits are in use than the lowest, and that makes a difference.
    """
    syntax = dataset.file_meta.TransferSyntaxUID
    says_itself = syntax in JPEG2000TransferSyntaxes or syntax in JPEGLSTransferSyntaxes
    if stored.dtype.kind == "f" or int(dataset.BitsAllocated) == 1 or says_itself:
        return stored
    in_use = int(dataset.BitsStored)
    unused = int(dataset.BitsAllocated) - in_use
    used = np.right_shift(np.left_shift(stored, unused), unused) if unused else stored
    highest = whole_number(dataset, "HighBit", in_use - 1)
    spare = highest - (in_use - 1)
    may_lie_above = spare > 0 and bool(stored.any()) and not (stored % 2**spare).any()
    if spare and (may_lie_above or not np.array_equal(used, stored)):
        raise Unreadable(
            f"HighBit is {highest} and BitsStored {in_use}, which leaves open where the {in_use} bits lie: "
            f"set HighBit to {in_use - 1} if they are the lowest"
        )
    return used


def _check_description(dataset: Dataset) -> None:
    """Check that what is needed to tell pixels from bytes is there, and makes sense."""
    if pixel_keyword(dataset) is None:
        raise Unreadable("damaged: the DICOM file ends within its pixels; copy it again from its source")
    needed = ["Rows", "Columns", "SamplesPerPixel", "BitsAllocated"]
    if "PixelData" in dataset:
        needed += ["BitsStored", "PixelRepresentation"]
    if whole_number(dataset, "SamplesPerPixel", 1) > 1:
        needed += ["PlanarConfiguration"]
    said = {keyword: whole_number(dataset, keyword) for keyword in needed}
    samples, allocated = said["SamplesPerPixel"], said["BitsAllocated"]
    stored = said.get("BitsStored", allocated)
    if photometric(dataset) not in _MEANINGS:
        raise Unreadable(f"DICOM whose PhotometricInterpretation is not read: {', '.join(_MEANINGS)} are")
    if samples not in (1, 3):
        raise Unreadable(f"SamplesPerPixel is {samples}: 1 or 3 are read")
    if allocated not in (1, 8, 16, 32, 64):
        raise Unreadable(f"BitsAllocated is {allocated}: 1, 8, 16, 32 or 64 are read")
    if not 1 <= stored <= allocated:
        raise Unreadable(f"damaged DICOM: BitsStored is {stored}, and BitsAllocated {allocated}")


def _check_native(dataset: Dataset, count: int) -> None:
    """Check that uncompressed pixel data are as large as the header says; what is less than a frame more is padding."""
    keyword = pixel_keyword(dataset) or ""
    element = dataset[keyword]
    if element.is_undefined_length:
        raise Unreadable("compressed DICOM pixels without the TransferSyntaxUID that says how: export the file again")
    values = int(dataset.Rows) * int(dataset.Columns) * int(dataset.SamplesPerPixel)
    bits = values * int(dataset.BitsAllocated)
    held = len(element.value or b"")
    if photometric(dataset) == "YBR_FULL_422":
        if held >= count * bits // 8:
            raise Unreadable(
                "PhotometricInterpretation is YBR_FULL_422, and PixelData are as large as YBR_FULL or RGB would be: "
                "correct what is wrong"
            )
        bits = bits * 2 // 3
    declared = -(-count * bits // 8)
    check_length(declared, held)
    if (held - declared - declared % 2) * 8 >= bits:  # an odd length is padded
        raise Unreadable(
            f"NumberOfFrames is {count}, and {keyword} holds another frame or more: correct the number, or export the "
            "file again"
        )


def _check_compressed(dataset: Dataset, count: int, wanted: set[int]) -> None:
    """Check that there are as many compressed frames as the header says, those wanted of the size that it says."""
    rows, columns, samples = (int(dataset[keyword].value) for keyword in ("Rows", "Columns", "SamplesPerPixel"))
    offsets = None
    if "ExtendedOffsetTable" in dataset and "ExtendedOffsetTableLengths" in dataset:
        offsets = dataset.ExtendedOffsetTable, dataset.ExtendedOffsetTableLengths
    found = 0
    try:
        for frame in generate_frames(dataset.PixelData, number_of_frames=count, extended_offsets=offsets):
            if found in wanted and dataset.file_meta.TransferSyntaxUID != RLELossless:
                check_codestream(frame, rows, columns, samples)
            found += 1
    except ValueError:
        raise Unreadable(
            "damaged: PixelData are not a sequence of compressed frames, as TransferSyntaxUID says; copy the file again"
        ) from None
    if found != count:
        raise Unreadable(
            f"NumberOfFrames is {count}, but the pixel data hold {found} compressed frames: correct the number"
        )


def _title(dataset: Dataset) -> str:
    """Name the transfer syntax, if the standard has it; what is not in its list may be anything."""
    syntax = dataset.file_meta.TransferSyntaxUID
    return str(syntax.name) if syntax.name != str(syntax) else "a private one"
