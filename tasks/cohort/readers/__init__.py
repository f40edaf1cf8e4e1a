"""Readers turn bytes into a decoded image. The format is decided by content, never by a file's name.

To add a reader, write its file, and name it in `READERS`.
"""

import logging
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from tasks.cohort.readers.dicom import Dicom
from tasks.cohort.readers.nifti import Nifti
from tasks.cohort.readers.npy import Npy
from tasks.cohort.readers.picture import Picture
from tasks.cohort.readers.tiff import Tiff
from tasks.cohort.reading import (
    LARGEST,
    Counts,
    Decoded,
    Frames,
    NoImage,
    Reader,
    Request,
    Unreadable,
    WindowConfig,
    enumerated,
)

READERS: tuple[Reader, ...] = (
    Dicom(),  # first, since its preamble may be another format's beginning, mostly TIFF's
    Picture(),
    Tiff(),
    Npy(),
    Nifti(),
)
"""All readers; a file is offered to them in this order."""

_POINTER = b"version https://git-lfs.github.com/spec/"


def _silence(readers: Iterable[Reader]) -> None:
    """Keep the libraries from remarking on files, since they may quote them."""
    loggers = [name for reader in readers for name in reader.loggers]
    for name in loggers:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    libraries = sorted({name.partition(".")[0] for name in loggers})
    warnings.filterwarnings("ignore", module=rf"({'|'.join(libraries)})\b")


_silence(READERS)


class Header(NamedTuple):
    """A file's format, and what its header says of it.

    Attributes
    ----------
    format
        The format's name, as the manifest has it.
    decoded
        Bytes that the pixels will take as float32.
    series
        UID of the series it belongs to; empty if it does not say.
    modality
        One of DICOM's terms, such as "CT"; empty if it does not say, or says another.
    patient, issuer
        Whose image it is, and who gave that identifier; empty if it does not say. Nothing writes them down.
    frames
        How many pictures it holds, if the format tells them apart.
    orientation
        Direction cosines of the rows and columns of a series' slice; empty if it does not say.
    counts
        How many of its pictures, and of its volumes, can be images of their own.
    """

    format: str
    decoded: int
    series: str = ""
    modality: str = ""
    patient: str = ""
    issuer: str = ""
    frames: int = 1
    orientation: tuple[float, ...] = ()
    counts: Counts = Counts()


def inspect(data: bytes) -> Header:
    """Read the header of a file; nothing is decoded, and nothing of the size that it declares is allocated.

    Raises
    ------
    Unreadable
        If the file is no image, or its header is damaged.
    """
    reader, format = _recognised(data)
    with _damage_as_a_reason(format):
        declared = reader.header(data)
    return Header(format, 4 * declared.values, *declared[1:])


def detect(data: bytes) -> str:
    """Tell the format of a file by its content.

    Raises
    ------
    Unreadable
        If it is none that can be read.
    """
    _, format = _recognised(data)
    return format


def read(
    parts: Sequence[bytes],
    spatial_dims: int,
    window: WindowConfig = "none",
    largest: int = LARGEST,
    frames: Frames = "as stored",
    frame: int | None = None,
) -> Decoded:
    """Decode one image for a network of `spatial_dims`.

    Parameters
    ----------
    parts
        The bytes of the image's file, or of each file of a series, in any order.
    spatial_dims
        How many spatial dimensions the network takes.
    window
        How DICOM values are windowed.
    largest
        Bytes that the pixels may take as float32.
    frames, frame
        What the frames of a file are; and the one that is wanted, counted from 1, where each is an image.

    Raises
    ------
    Unreadable
        If the image is larger, cannot be decoded, is empty or has another number of spatial dimensions.
    """
    request = Request(spatial_dims, window, largest, frame=frame, as_channels=frames == "channels")
    return _with_dims(_decoded(parts, request), spatial_dims)


def read_mask(data: bytes, spatial_dims: int, largest: int = LARGEST, frame: int | None = None) -> Decoded:
    """Decode a mask with all its channels. It may be the volume that a slice comes from, so that any space is accepted.

    Parameters
    ----------
    data
        The bytes of the mask's file.
    spatial_dims, largest
        As `read` takes them.
    frame
        The one that is wanted, counted from 1; None: the whole file.

    Raises
    ------
    Unreadable
        If the mask is larger, cannot be decoded or is empty.
    """
    mask = _decoded([data], Request(spatial_dims, largest=largest, as_mask=True, frame=frame))
    _check_pixels(mask)
    return mask


def _decoded(parts: Sequence[bytes], request: Request) -> Decoded:
    reader, format = _recognised(parts[0])
    if len(parts) > 1 and not reader.joins_files:
        series = _titles(reader for reader in READERS if reader.joins_files)
        raise Unreadable(
            f"{len(parts)} files for one image, but only {enumerated(series, 'and')} "
            f"{'has' if len(series) == 1 else 'have'} series: name the one {format} file"
        )
    with _damage_as_a_reason(format):
        return reader.decode(parts, request)


def _recognised(data: bytes) -> tuple[Reader, str]:
    """Find the reader of a file, and the file's format."""
    if not data:
        raise Unreadable("the file is empty: copy it again from its source")
    for reader in READERS:
        format = reader.recognise(data)
        if format is not None:
            return reader, format
    if data.startswith(_POINTER):  # the image is missing, so that it may not be left out as no image
        raise Unreadable("a pointer of Git LFS in place of the file: fetch it by `git lfs pull`")
    raise NoImage(
        f"not a known image format: expected {enumerated(_titles(READERS), 'or')}; "
        "narrow the source with a glob if it is no image"
    )


@contextmanager
def _damage_as_a_reason(format: str) -> Iterator[None]:
    """Take whatever a library raises for damage: a damaged file can raise anything, and must not stop the run."""
    try:
        yield
    except Unreadable:
        raise
    except Exception as error:
        raise Unreadable(
            f"damaged or unsupported {format} ({type(error).__name__}): copy the file again from its source, or "
            "convert it"
        ) from None


def _titles(readers: Iterable[Reader]) -> list[str]:
    return [title for reader in readers for title in reader.formats.values()]


def _with_dims(decoded: Decoded, spatial_dims: int) -> Decoded:
    """Check that an image has the dimensions that the network takes; a volume of one slice is also a picture."""
    _check_pixels(decoded)
    pixels = decoded.pixels
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


def _check_pixels(decoded: Decoded) -> None:
    if 0 in decoded.pixels.shape:
        raise Unreadable(f"the image holds no pixels: shape {decoded.pixels.shape} (channel, *space)")
