"""Readers: bytes in, a decoded image out. The format is decided by content, never by a file's name."""

import gzip
import logging
import warnings
import zlib
from collections.abc import Sequence
from io import BytesIO
from typing import Literal, NamedTuple

from tasks.cohort.readers import dicom, nifti, npy, picture
from tasks.cohort.reading import LARGEST, Decoded, Unreadable

# What the decoding libraries remark on a file may quote it.
for _library in ("pydicom", "nibabel", "nibabel.global", "PIL"):
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)
warnings.filterwarnings("ignore", module=r"(pydicom|nibabel|PIL)\b")

Format = Literal["dicom", "nifti", "png", "jpeg", "tiff", "npy"]

_MAGIC: tuple[tuple[bytes, Format], ...] = (
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"\xff\xd8\xff", "jpeg"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"\x93NUMPY", "npy"),
)


class Header(NamedTuple):
    """What a file says of itself.

    Attributes
    ----------
    decoded
        Bytes that its pixels will take as float32.
    series
        UID of the DICOM series it belongs to; empty if it does not say.
    modality
        One of DICOM's terms, such as "CT"; empty if it does not say, or says another.
    """

    format: Format
    decoded: int
    series: str = ""
    modality: str = ""


def inspect(data: bytes) -> Header:
    """Read the header of a file; nothing is decoded, and nothing of the size that it declares is allocated.

    Raises
    ------
    Unreadable
        If the file is no image, or its header is damaged.
    """
    format = detect(data)
    try:
        match format:
            case "dicom":
                values, series, modality = dicom.values(data)
                return Header(format, 4 * values, series, modality)
            case "nifti":
                return Header(format, 4 * nifti.values(data))
            case "npy":
                return Header(format, 4 * npy.values(data))
            case "png" | "jpeg" | "tiff":
                return Header(format, 4 * picture.values(data))
    except Unreadable:
        raise
    except Exception as error:  # a damaged header can raise anything
        raise Unreadable(f"damaged or unsupported {format} ({type(error).__name__})") from None


def detect(data: bytes) -> Format:
    """Tell the format of a file by its first bytes.

    Raises
    ------
    Unreadable
        If it is none that can be read.
    """
    if not data:
        raise Unreadable("the file is empty: copy it again from its source")
    if dicom.is_dicom(data):  # first, since its preamble may be another format's beginning, mostly TIFF's
        return "dicom"
    for magic, format in _MAGIC:
        if data.startswith(magic):
            return format
    head = _gunzip_head(data) if data.startswith(b"\x1f\x8b") else data[:540]
    if nifti.is_nifti(head):
        return "nifti"
    raise Unreadable(
        "not a known image format: expected DICOM, NIfTI, PNG, JPEG, TIFF or NPY; narrow the source with a glob if it "
        "is no image"
    )


def read(
    parts: Sequence[bytes], spatial_dims: int, window: dicom.WindowConfig = "none", largest: int = LARGEST
) -> Decoded:
    """Decode one image for a network of `spatial_dims`.

    Parameters
    ----------
    parts
        The bytes of the image's file, or of each file of a DICOM series, in any order.
    window
        How DICOM values are windowed.
    largest
        Bytes that the pixels may take as float32.

    Raises
    ------
    Unreadable
        If the image is larger, cannot be decoded, is empty or has another number of spatial dimensions.
    """
    format = detect(parts[0])
    if len(parts) > 1 and format != "dicom":
        raise Unreadable(f"{len(parts)} files for one image, but only DICOM has series: name the one {format} file")
    try:
        match format:
            case "dicom":
                decoded = dicom.read(parts, largest, window)
            case "nifti":
                decoded = nifti.read(parts[0], largest)
            case "npy":
                decoded = npy.read(parts[0], spatial_dims, largest)
            case "png" | "jpeg" | "tiff":
                decoded = picture.read(parts[0], largest)
    except Unreadable:
        raise
    except Exception as error:  # a damaged file can raise anything in a decoder; it must not stop the run
        raise Unreadable(f"damaged or unsupported {format} ({type(error).__name__})") from None
    return _with_dims(decoded, spatial_dims)


def _with_dims(decoded: Decoded, spatial_dims: int) -> Decoded:
    pixels = decoded.pixels
    if 0 in pixels.shape:
        raise Unreadable(f"the image holds no pixels: shape {pixels.shape} (channel, *space)")
    if pixels.ndim == 4 and spatial_dims == 2 and pixels.shape[1] == 1:
        return Decoded(pixels[:, 0], decoded.affine)
    if spatial_dims == 3 and (pixels.ndim == 3 or pixels.shape[1] == 1):
        raise Unreadable(
            f"a picture of {pixels.shape[-2:]} (y, x), but the model takes volumes: "
            "a DICOM series needs all its slices in the cohort"
        )
    if pixels.ndim - 1 != spatial_dims:
        raise Unreadable(
            f"a volume of {pixels.shape[1:]} (z, y, x), but the model takes pictures: "
            "extract the slices to explain, or use a 3-D model"
        )
    return decoded


def _gunzip_head(data: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=BytesIO(data)) as stream:
            return stream.read(nifti.HEAD)
    except EOFError:
        return b""
    except (OSError, zlib.error) as error:
        raise Unreadable(f"damaged gzip ({type(error).__name__}): copy the file again from its source") from None
