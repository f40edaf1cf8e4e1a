"""Compressed frames are decoded to what GDCM makes of them, or to what was compressed."""

import os
import subprocess
import sys
from io import BytesIO

import imagecodecs
import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array
from pydicom.uid import (
    JPEG2000,
    UID,
    ExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEG2000MCLossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
    RLELossless,
)

from tasks.cohort.reading import Unreadable
from tests.tasks.readers.test_dicom import RNG, dataset, encode, pixels, shipped

SMOOTH = np.add.outer(np.arange(40), 2 * np.arange(30))
COLOURS = np.stack([SMOOTH, SMOOTH[::-1], SMOOTH[:, ::-1]], axis=-1).astype(np.uint8)
BY_GDCM = [
    "693_J2KI.dcm",
    "J2K_pixelrep_mismatch.dcm",
    "JPEG2000.dcm",
    "JPEGLSNearLossless_08.dcm",
    "JPEGLSNearLossless_16.dcm",
    "MR_small_jp2klossless.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
    "SC_rgb_dcmtk_+eb+cr.dcm",
    "SC_rgb_dcmtk_+eb+cy+n1.dcm",
    "SC_rgb_dcmtk_+eb+cy+n2.dcm",
    "SC_rgb_dcmtk_+eb+cy+np.dcm",
    "SC_rgb_dcmtk_+eb+cy+s2.dcm",
    "SC_rgb_dcmtk_+eb+cy+s4.dcm",
    "SC_rgb_gdcm_KY.dcm",
    "SC_rgb_jls_lossy_line.dcm",
    "SC_rgb_jls_lossy_sample.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "SC_rgb_jpeg_gdcm.dcm",
    "SC_rgb_jpeg_lossy_gdcm.dcm",
    "SC_rgb_small_odd_jpeg.dcm",
    "examples_jpeg2k.dcm",
]


def with_frame(stored: NDArray[np.generic], bits: int, frame: bytes, syntax: UID, **elements: object) -> bytes:
    made = dataset(stored, bits, PixelData=encapsulate([frame]), **elements)
    if stored.ndim > 2:
        made.SamplesPerPixel, made.PlanarConfiguration = 3, 0
    return encode(made, syntax)


@pytest.mark.parametrize("name", BY_GDCM)
def test_other_peoples_files_are_decoded_as_gdcm_does(name: str) -> None:
    file = pydicom.dcmread(BytesIO(shipped(name)))
    if "PixelPaddingValue" in file:
        del file.PixelPaddingValue
    by_gdcm = pixel_array(file, decoding_plugin="gdcm").astype(np.float64)
    by_gdcm = by_gdcm * float(file.get("RescaleSlope", 1)) + float(file.get("RescaleIntercept", 0))
    expected = np.moveaxis(by_gdcm, -1, 0) if by_gdcm.ndim == 3 else by_gdcm[None]
    np.testing.assert_allclose(pixels(encode(file, file.file_meta.TransferSyntaxUID)), expected, atol=1)


@pytest.mark.parametrize("syntax", [JPEGLossless, JPEGLosslessSV1, JPEGLSLossless, JPEG2000Lossless, HTJ2KLossless])
@pytest.mark.parametrize(("dtype", "bits"), [(np.uint8, 8), (np.uint16, 12), (np.uint16, 16), (np.int16, 16)])
def test_what_loses_nothing_gives_the_same_pixels(syntax: UID, dtype: type, bits: int) -> None:
    signed = np.dtype(dtype).kind == "i"
    stored = RNG.integers(-(2 ** (bits - 1)) * signed, 2 ** (bits - signed), (20, 30)).astype(dtype)
    unsigned = stored.view(f"u{stored.dtype.itemsize}") & (2**bits - 1)
    if syntax in (JPEGLossless, JPEGLosslessSV1):
        predictor = 1 if syntax == JPEGLosslessSV1 else 5
        frame = imagecodecs.jpeg8_encode(unsigned, lossless=True, predictor=predictor, bitspersample=bits)
    elif syntax == JPEGLSLossless:
        frame = imagecodecs.jpegls_encode(unsigned)
    elif syntax == JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0, bitspersample=bits)
    else:
        frame = imagecodecs.htj2k_encode(stored)
    np.testing.assert_array_equal(pixels(with_frame(stored, bits, frame, syntax))[0], stored)


@pytest.mark.parametrize("syntax", [JPEGLosslessSV1, JPEG2000Lossless])
def test_signed_numbers_of_12_bits_keep_their_sign(syntax: UID) -> None:
    stored = RNG.integers(-2048, 2048, (20, 30)).astype(np.int16)
    if syntax == JPEGLosslessSV1:  # which knows no sign
        frame = imagecodecs.jpeg8_encode(stored.view(np.uint16) & 4095, lossless=True, predictor=1, bitspersample=12)
    else:
        frame = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0, bitspersample=12)
    np.testing.assert_array_equal(pixels(with_frame(stored, 12, frame, syntax))[0], stored)


def test_jpeg_extended_of_12_bits_is_close_to_the_picture() -> None:
    stored = (SMOOTH * 40).astype(np.uint16)
    frame = imagecodecs.jpeg8_encode(stored, level=95, bitspersample=12)
    np.testing.assert_allclose(pixels(with_frame(stored, 12, frame, JPEGExtended12Bit))[0], stored, atol=8)


def test_jpeg_ls_is_as_near_as_it_says() -> None:
    stored = RNG.integers(0, 4096, (20, 30)).astype(np.uint16)
    frame = imagecodecs.jpegls_encode(stored, level=3)
    np.testing.assert_allclose(pixels(with_frame(stored, 12, frame, JPEGLSNearLossless))[0], stored, atol=3)


@pytest.mark.parametrize(("photometric", "reversible"), [("YBR_RCT", True), ("YBR_ICT", False), ("RGB", True)], ids=str)
def test_colours_of_jpeg_2000_are_rgb(photometric: str, reversible: bool) -> None:
    level = 0 if reversible else 50
    frame = imagecodecs.jpeg2k_encode(
        COLOURS, codecformat="j2k", reversible=reversible, level=level, mct=photometric != "RGB"
    )
    data = with_frame(COLOURS, 8, frame, JPEG2000, PhotometricInterpretation=photometric)
    np.testing.assert_allclose(pixels(data), np.moveaxis(COLOURS, -1, 0), atol=0 if reversible else 6)


def adobe(transform: int) -> bytes:
    """A JPEG whose components are YCbCr (1) or RGB (0), with the marker that says so and without JFIF's."""
    spaces = ("RGB", "RGB") if transform == 0 else ("RGB", "YCBCR")
    frame = imagecodecs.jpeg8_encode(
        COLOURS, level=95, colorspace=spaces[0], outcolorspace=spaces[1], subsampling="444"
    )
    marker = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    at = frame.find(b"JFIF")
    return frame[:2] + marker + (frame[at + 14 :] if at > 0 else frame[2:])


@pytest.mark.parametrize("photometric", ["RGB", "YBR_FULL", "YBR_FULL_422"])
@pytest.mark.parametrize("transform", [0, 1])
def test_colours_of_jpeg_are_what_their_encoder_says(photometric: str, transform: int) -> None:
    data = with_frame(COLOURS, 8, adobe(transform), JPEGBaseline8Bit, PhotometricInterpretation=photometric)
    np.testing.assert_allclose(pixels(data), np.moveaxis(COLOURS, -1, 0), atol=8)


def test_without_the_encoders_word_the_file_says_which_colours_they_are() -> None:
    jpeg = BytesIO()
    Image.fromarray(COLOURS).save(jpeg, "JPEG", quality=95, subsampling=0)
    data = with_frame(COLOURS, 8, jpeg.getvalue(), JPEGBaseline8Bit, PhotometricInterpretation="YBR_FULL_422")
    np.testing.assert_allclose(pixels(data), np.moveaxis(COLOURS, -1, 0), atol=8)


def test_no_other_decoder_is_needed() -> None:
    code = """
import sys
from pathlib import Path
sys.modules.update(dict.fromkeys(["gdcm", "openjpeg", "pylibjpeg", "jpeg_ls"]))
from tasks.cohort.readers import read
for path in sys.argv[1:]:
    print(*read([Path(path).read_bytes()], 2).pixels.shape)
"""
    names = ["JPEG2000.dcm", "JPGExtended.dcm", "MR_small_jpeg_ls_lossless.dcm", "SC_rgb_rle.dcm"]
    paths = [str(get_testdata_file(name, download=False)) for name in names]
    environment = os.environ | {"PYTHONPATH": os.getcwd()}
    found = subprocess.check_output([sys.executable, "-c", code, *paths], text=True, timeout=280, env=environment)
    assert found.splitlines() == ["1 1024 256", "1 1024 256", "1 64 64", "3 100 100"]


@pytest.mark.parametrize("filling", [b"\xff", b"\xff\x01"])
def test_a_header_of_nothing_but_markers_is_refused(filling: bytes) -> None:
    frame = b"\xff\xd8" + filling * 2**20 + imagecodecs.jpeg8_encode(SMOOTH.astype(np.uint8))[2:]
    with pytest.raises(Unreadable, match="damaged header"):
        pixels(with_frame(SMOOTH.astype(np.uint8), 8, frame, JPEGBaseline8Bit))


def rle_frames(count: int) -> Dataset:
    made = dataset(RNG.integers(0, 99, (count, 8, 8)).astype(np.uint16), Rows=8, Columns=8, NumberOfFrames=count)
    made.file_meta = pydicom.dataset.FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.compress(RLELossless, generate_instance_uid=False)
    return made


def test_more_frames_than_the_header_says_are_refused() -> None:
    made = rle_frames(3)
    made.NumberOfFrames = 2
    with pytest.raises(Unreadable, match="NumberOfFrames is 2, but the pixel data hold 3 compressed frames"):
        pixels(encode(made, RLELossless))


def test_an_rle_frame_that_expands_is_refused() -> None:
    row = b"\x81\x07" * 2**16  # each two bytes are 128
    header = np.array([2, 64, 64 + len(row), *[0] * 13], "<u4").tobytes()
    data = with_frame(np.zeros((8, 8), np.uint16), 16, header + row + row, RLELossless)
    with pytest.raises(Unreadable, match=r"compressed frame \(RLE Lossless\) cannot be decoded"):
        pixels(data)


@pytest.mark.parametrize(
    ("frame", "syntax", "reason"),
    [
        (imagecodecs.jpeg8_encode(SMOOTH.astype(np.uint8))[:-40], JPEGBaseline8Bit, "ends before its end marker"),
        (imagecodecs.jpegls_encode(SMOOTH.astype(np.uint16))[:-40], JPEGLSLossless, "ends before its end marker"),
        (imagecodecs.jpeg2k_encode(SMOOTH.astype(np.uint16), codecformat="j2k")[:-40], JPEG2000, "cannot be decoded"),
        (imagecodecs.jpeg2k_encode(COLOURS, codecformat="j2k"), JPEG2000, "40 x 30 x 3.*declares 40 x 30 x 1"),
        (imagecodecs.jpegls_encode(SMOOTH.astype(np.uint16) * 300), JPEGLSLossless, "cannot be decoded"),
        (b"\xff\xd8 and so on", JPEG2000MCLossless, "that is not read .JPEG 2000 Part 2 Multi-component"),
    ],
    ids=["jpeg", "jpeg-ls", "jpeg 2000", "components", "wider", "part 2"],
)
def test_what_cannot_be_decoded_right_is_refused(frame: bytes, syntax: UID, reason: str) -> None:
    stored = SMOOTH.astype(np.uint8)
    with pytest.raises(Unreadable, match=reason):
        pixels(with_frame(stored, 8, frame, syntax))


def test_a_codestream_of_countless_tiles_is_refused() -> None:
    frame = bytearray(imagecodecs.jpeg2k_encode(SMOOTH.astype(np.uint8), codecformat="j2k"))
    frame[24:32] = (1).to_bytes(4) + (1).to_bytes(4)  # the width and height of a tile
    made = with_frame(np.zeros((400, 300), np.uint8), 8, bytes(frame), JPEG2000)
    with pytest.raises(Unreadable, match=r"40 x 30"):
        pixels(made)
    frame[8:16] = (300).to_bytes(4) + (400).to_bytes(4)
    with pytest.raises(Unreadable, match="120000 tiles: at most 4096"):
        pixels(with_frame(np.zeros((400, 300), np.uint8), 8, bytes(frame), JPEG2000))
