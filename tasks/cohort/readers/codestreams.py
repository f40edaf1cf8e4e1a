"""Decode compressed frames of DICOM with imagecodecs, as a plugin of pydicom, after their own size was checked.

A decoder allocates what a frame itself declares, which need not be what the file around it says.
"""

from collections.abc import Mapping

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from pydicom.pixels import get_decoder
from pydicom.pixels.common import PhotometricInterpretation
from pydicom.pixels.decoders.base import DecodeRunner
from pydicom.uid import (
    HTJ2K,
    JPEG2000,
    HTJ2KLossless,
    HTJ2KLosslessRPCL,
    JPEG2000Lossless,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
    RLELossless,
)

from tasks.cohort.reading import Unreadable

PLUGIN = "imagecodecs"
"""The plugin's name, which whoever decodes with pydicom gives."""

MOST_TILES = 2**12
"""A JPEG 2000 frame may have this many tiles: OpenJPEG allocates some 7 KiB for each before it reads any."""

DECODER_DEPENDENCIES: Mapping[str, tuple[str, ...]] = dict.fromkeys(
    [
        *JPEGTransferSyntaxes,
        *JPEGLSTransferSyntaxes,
        *(JPEG2000, JPEG2000Lossless, HTJ2K, HTJ2KLossless, HTJ2KLosslessRPCL),
        RLELossless,
    ],
    ("imagecodecs",),
)
"""The transfer syntaxes that this plugin decodes, in the form that pydicom asks for."""

_SCAN, _APP14, _END = 0xDA, 0xEE, b"\xff\xd9"
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_FRAME_HEADERS = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}
"""Markers of JPEG and JPEG-LS; the three that are left out are tables."""

_MOST_SEGMENTS = 2**12

_J2K = b"\xff\x4f\xff\x51"


def check_codestream(frame: bytes, rows: int, columns: int, samples: int) -> None:
    """Check, before it is decoded, that a JPEG, JPEG-LS or JPEG 2000 frame has the size that is allocated for it.

    Parameters
    ----------
    rows, columns, samples
        The size that the file around the frame declares.

    Raises
    ------
    Unreadable
        If it has another, does not say, or ends early.
    """
    found = _jpeg(frame) if frame.startswith(b"\xff\xd8") else _jpeg2000(frame)
    if found is None:
        raise Unreadable(
            "a compressed frame does not say how large it is, or has a damaged header: copy the file again"
        )
    if found != (rows, columns, samples):
        raise Unreadable(
            f"a compressed frame is {found[0]} x {found[1]} x {found[2]}, "
            f"but the file declares {rows} x {columns} x {samples} (Rows, Columns, SamplesPerPixel)"
        )
    # libjpeg fills up what is missing with grey.
    if frame.startswith(b"\xff\xd8") and not frame.rstrip(b"\0\xff").endswith(_END):
        raise Unreadable("damaged: a compressed frame ends before its end marker; copy the file again from its source")


def is_available(uid: str) -> bool:
    """Tell pydicom that the transfer syntax can be decoded."""
    return uid in DECODER_DEPENDENCIES


def decode_frame(frame: bytes, runner: DecodeRunner) -> bytes:
    """Decode a frame into the numbers that pydicom expects: those of the codestream, in as many bits as are allocated.

    Raises
    ------
    ValueError
        If the frame has another size than `runner`, or wider numbers.
    """
    shape = (runner.rows, runner.columns, *([runner.samples_per_pixel] if runner.samples_per_pixel > 1 else []))
    if runner.transfer_syntax == RLELossless:
        return _decode_rle(frame, runner)
    if runner.transfer_syntax in JPEG2000TransferSyntaxes:
        decoded = imagecodecs.jpeg2k_decode(frame[frame.find(_J2K) :], numthreads=1)
        if runner.photometric_interpretation in (PhotometricInterpretation.YBR_ICT, PhotometricInterpretation.YBR_RCT):
            runner.set_option("photometric_interpretation", PhotometricInterpretation.RGB)  # OpenJPEG undoes both
    elif runner.transfer_syntax in JPEGLSTransferSyntaxes:
        decoded = imagecodecs.jpegls_decode(frame)
    else:
        decoded = _decode_jpeg(frame, runner)
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 0)
    expected = np.dtype(f"u{runner.bits_allocated // 8}")
    if decoded.shape != shape or decoded.dtype.itemsize > expected.itemsize:
        raise ValueError(f"decoded {decoded.dtype} {decoded.shape}, not {expected} {shape}")
    return decoded.astype(runner.pixel_dtype).tobytes()


def _decode_rle(frame: bytes, runner: DecodeRunner) -> bytes:
    if runner.samples_per_pixel > 1:
        runner.set_option("planar_configuration", 1)
    size = int(runner.frame_length(unit="bytes"))
    decoded = imagecodecs.dicomrle_decode(frame, np.dtype(f"<u{runner.bits_allocated // 8}"), out=size)
    if len(decoded) != size:
        raise ValueError(f"decoded {len(decoded)} bytes, not {size}")
    return bytes(decoded)


def _decode_jpeg(frame: bytes, runner: DecodeRunner) -> NDArray[np.generic]:
    """Decode the components as they are; what colours they mean, the photometric interpretation says."""
    space = "RGB" if runner.samples_per_pixel == 3 else "GRAYSCALE"
    transform = _adobe_transform(frame)
    if runner.samples_per_pixel == 3 and transform is not None:  # the encoder's own word
        name = PhotometricInterpretation.YBR_FULL if transform else PhotometricInterpretation.RGB
        runner.set_option("photometric_interpretation", name)
    return imagecodecs.jpeg8_decode(frame, colorspace=space, outcolorspace=space)


def _segments(frame: bytes) -> list[tuple[int, int]]:
    """List the markers of a JPEG up to its scan, each with where its length lies; none if the header is damaged."""
    found = []
    at = 2
    for _ in range(_MOST_SEGMENTS):
        if at + 4 > len(frame) or frame[at] != 0xFF:
            break
        marker = frame[at + 1]
        if marker == 0xFF:  # fill
            at += 1
            continue
        found.append((marker, at + 2))
        if marker == _SCAN:
            return found
        at += 2 if marker in _WITHOUT_LENGTH else 2 + int.from_bytes(frame[at + 2 : at + 4])
    return []


def _jpeg(frame: bytes) -> tuple[int, int, int] | None:
    headers = [at for marker, at in _segments(frame) if marker in _FRAME_HEADERS]
    if not headers:
        return None
    (at,) = headers[-1:]
    rows, columns = int.from_bytes(frame[at + 3 : at + 5]), int.from_bytes(frame[at + 5 : at + 7])
    return rows, columns, int.from_bytes(frame[at + 7 : at + 8])


def _adobe_transform(frame: bytes) -> int | None:
    """Tell whether the components are YCbCr (1) or RGB (0), by the marker that Adobe's encoders write."""
    for marker, at in _segments(frame):
        if marker == _APP14 and frame[at + 2 : at + 7] == b"Adobe" and int.from_bytes(frame[at : at + 2]) >= 14:
            return frame[at + 13]
    return None


def _jpeg2000(frame: bytes) -> tuple[int, int, int] | None:
    at = frame.find(_J2K)
    if at < 0 or len(frame) < at + 42:
        return None
    right, bottom, left, top, width, height = (
        int.from_bytes(frame[at + 8 + 4 * n : at + 12 + 4 * n]) for n in range(6)
    )
    tiles = -(-right // max(width, 1)) * -(-bottom // max(height, 1))
    if tiles > MOST_TILES:
        raise Unreadable(f"a compressed frame has {tiles} tiles: at most {MOST_TILES} are read")
    return bottom - top, right - left, int.from_bytes(frame[at + 40 : at + 42])


def _register() -> None:
    for uid in DECODER_DEPENDENCIES:
        get_decoder(uid).add_plugin(PLUGIN, (__name__, decode_frame.__name__))


_register()
