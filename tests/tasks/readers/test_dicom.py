from collections.abc import Sequence
from io import BytesIO
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from pydantic import ValidationError
from pydicom.data import get_testdata_file
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import (
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    MRImageStorage,
    RLELossless,
    generate_uid,
)

from tasks.cohort.readers import detect, inspect, read
from tasks.cohort.reading import Unreadable, Window, WindowConfig

RNG = np.random.default_rng(5)
STORED = {bits: RNG.integers(0, 2**bits, (12, 10)).astype(np.uint16) for bits in (12, 16)}
RAMP = np.arange(120, dtype=np.uint16).reshape(12, 10) * 34
AXIAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0)
OBLIQUE = (0.6, 0.8, 0.0, 0.0, 0.0, -1.0)


def dataset(stored: NDArray[np.generic], bits: int = 12, **elements: object) -> Dataset:
    made = Dataset()
    made.SOPClassUID, made.SOPInstanceUID = MRImageStorage, generate_uid()
    made.ImageType = ["ORIGINAL", "PRIMARY"]
    made.SeriesInstanceUID, made.Modality = "1.2.3", "MR"
    made.Rows, made.Columns = stored.shape[:2]
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit = stored.dtype.itemsize * 8, bits, bits - 1
    made.PixelRepresentation = int(stored.dtype.kind == "i")
    made.PixelData = stored.tobytes()
    made["PixelData"].VR = "OB" if stored.dtype.itemsize == 1 else "OW"
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def encode(made: Dataset, syntax: str = ExplicitVRLittleEndian) -> bytes:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = syntax
    sink = BytesIO()
    made.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def compressed(stored: NDArray[np.generic], bits: int, syntax: str) -> bytes:
    made = dataset(stored, bits)
    if syntax == ExplicitVRBigEndian:
        made.PixelData = stored.astype(">u2").tobytes()
    elif syntax == JPEGLosslessSV1:
        frame = imagecodecs.jpeg_encode(stored, lossless=True, predictor=1, bitspersample=bits)
        made.PixelData = encapsulate([frame])
    elif syntax == JPEG2000Lossless:
        frame = imagecodecs.jpeg2k_encode(stored, codecformat="j2k", reversible=True, level=0, bitspersample=bits)
        made.PixelData = encapsulate([frame])
    elif syntax == JPEGLSLossless:
        made.PixelData = encapsulate([imagecodecs.jpegls_encode(stored)])
    elif syntax == RLELossless:
        made.file_meta = FileMetaDataset()
        made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        made.compress(syntax, generate_instance_uid=False)
    return encode(made, syntax)


def plane(
    height: float, *, orientation: Sequence[float] = AXIAL, spacing: Sequence[float] = (2.0, 0.5), **elements: object
) -> bytes:
    """Encode a slice whose pixels all hold ten times its height, `height` mm along the slice normal."""
    normal = np.cross(orientation[:3], orientation[3:])
    located = {
        "ImagePositionPatient": [*(np.array([10.0, 20.0, 30.0]) + height * normal)],
        "ImageOrientationPatient": [*orientation],
        "PixelSpacing": [*spacing],
        "SliceThickness": 1.0,
    }
    return encode(dataset(np.full((4, 6), 10 * height, np.uint16), **located | elements))


def item(**elements: object) -> Dataset:
    made = Dataset()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def shipped(name: str) -> bytes:
    """One of pydicom's own test files, of those in its wheel."""
    return Path(str(get_testdata_file(name, download=False))).read_bytes()


def pixels(data: bytes, window: WindowConfig = "none") -> NDArray[np.float32]:
    return read([data], 2, window).pixels


@pytest.mark.parametrize(
    "syntax",
    [
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
        JPEGLosslessSV1,
    ],
    ids=lambda syntax: syntax.name,
)
@pytest.mark.parametrize("bits", [12, 16])
def test_lossless_transfer_syntaxes_give_the_same_pixels(syntax: str, bits: int) -> None:
    decoded = pixels(compressed(STORED[bits], bits, syntax))
    assert decoded.dtype == np.float32
    np.testing.assert_array_equal(decoded, STORED[bits][None])


def test_jpeg_baseline_is_close_to_the_picture() -> None:
    smooth = np.add.outer(np.arange(32), 3 * np.arange(32)).astype(np.uint8)
    jpeg = BytesIO()
    Image.fromarray(smooth).save(jpeg, "JPEG", quality=95)
    made = dataset(smooth, 8, PixelData=encapsulate([jpeg.getvalue()]))
    np.testing.assert_allclose(pixels(encode(made, JPEGBaseline8Bit))[0], smooth, atol=4)


@pytest.mark.parametrize("name", ["MR_small.dcm", "MR_small_implicit.dcm", "MR_small_bigendian.dcm"])
@pytest.mark.parametrize("other", ["MR_small_RLE.dcm", "MR_small_jp2klossless.dcm", "MR_small_jpeg_ls_lossless.dcm"])
def test_other_peoples_encodings_of_one_picture_agree(name: str, other: str) -> None:
    first, second = (shipped(file) for file in (name, other))
    assert pixels(first).max() == 2145
    np.testing.assert_array_equal(pixels(first), pixels(second))


@pytest.mark.parametrize("shape", [(5, 7, 3), (1, 7, 3)], ids=str)
@pytest.mark.parametrize("planar", [0, 1])
def test_colours_become_channels(shape: tuple[int, ...], planar: int) -> None:
    colours = RNG.integers(0, 256, shape).astype(np.uint8)
    made = dataset(colours, 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=planar)
    made.PixelData = (np.moveaxis(colours, -1, 0) if planar else colours).tobytes()
    made.PixelData += b"\0" * (len(made.PixelData) % 2)
    np.testing.assert_array_equal(pixels(encode(made)), np.moveaxis(colours, -1, 0))


def test_frames_without_positions_are_a_volume_in_their_own_order() -> None:
    frames = RNG.integers(0, 4096, (3, 4, 5)).astype(np.uint16)
    decoded = read([encode(dataset(frames, Rows=4, Columns=5, NumberOfFrames=3))], 3)
    np.testing.assert_array_equal(decoded.pixels[0], frames)
    assert decoded.affine is None


def test_a_legacy_multi_frame_object_is_stacked_along_its_normal() -> None:
    frames = RNG.integers(0, 4096, (3, 4, 5)).astype(np.uint16)
    made = dataset(frames, Rows=4, Columns=5, NumberOfFrames=3, SpacingBetweenSlices=2.5, SliceThickness=9)
    made.ImagePositionPatient, made.ImageOrientationPatient = [10, 20, 30], [*AXIAL]
    made.PixelSpacing = [2, 0.5]
    decoded = read([encode(made)], 3)
    assert decoded.affine is not None
    np.testing.assert_array_equal(decoded.pixels[0], frames)
    np.testing.assert_allclose(decoded.affine @ [2, 3, 4, 1], [-12, -26, 35, 1])


def test_an_enhanced_object_is_ordered_and_rescaled_frame_by_frame() -> None:
    frames = RNG.integers(0, 4096, (4, 4, 5)).astype(np.uint16)
    heights = [6.0, 0.0, 9.0, 3.0]
    made = dataset(frames, Rows=4, Columns=5, NumberOfFrames=4)
    measures = item(PixelSpacing=[2, 0.5], SliceThickness=3)
    orientation = item(ImageOrientationPatient=[*AXIAL])
    made.SharedFunctionalGroupsSequence = [
        item(PixelMeasuresSequence=[measures], PlaneOrientationSequence=[orientation])
    ]
    made.PerFrameFunctionalGroupsSequence = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[10, 20, 30 + height])],
            PixelValueTransformationSequence=[item(RescaleSlope=1 + height, RescaleIntercept=7, RescaleType="US")],
        )
        for height in heights
    ]
    decoded = read([encode(made)], 3)
    assert decoded.affine is not None
    expected = [frames[place] * (1 + heights[place]) + 7 for place in np.argsort(heights)]
    np.testing.assert_allclose(decoded.pixels[0], expected)
    np.testing.assert_allclose(decoded.affine @ [3, 1, 2, 1], [-11, -22, 39, 1])


@pytest.mark.parametrize(
    ("orientation", "index", "lps"),
    # Mapped by hand: (10, 20, 30) + x · 0.5 · row + y · 2 · column + z · 3 · normal.
    [
        (AXIAL, (0, 0, 0), (10, 20, 30)),
        (AXIAL, (4, 0, 0), (10, 20, 42)),
        (AXIAL, (1, 2, 4), (12, 24, 33)),
        (OBLIQUE, (0, 0, 4), (11.2, 21.6, 30)),
        (OBLIQUE, (0, 3, 0), (10, 20, 24)),
        (OBLIQUE, (2, 0, 0), (10 - 0.8 * 6, 20 + 0.6 * 6, 30)),
    ],
)
def test_a_shuffled_series_is_one_volume_in_patient_coordinates(
    orientation: Sequence[float], index: tuple[int, ...], lps: tuple[float, ...]
) -> None:
    heights = [9.0, 0.0, 12.0, 3.0, 6.0]
    decoded = read([plane(height, orientation=orientation) for height in heights], 3)
    assert decoded.pixels.shape == (1, 5, 4, 6) and decoded.affine is not None
    np.testing.assert_array_equal(decoded.pixels[0, :, 0, 0], [0, 30, 60, 90, 120])
    np.testing.assert_allclose((decoded.affine @ [*index, 1])[:3], np.multiply(lps, [-1, -1, 1]), atol=1e-9)


def test_a_tilted_gantry_shears_the_affine() -> None:
    parts = [plane(3.0 * z, ImagePositionPatient=[10, 20 + 1.5 * z, 30 + 3 * z]) for z in (2, 0, 1)]
    affine = read(parts, 3).affine
    assert affine is not None
    np.testing.assert_allclose(affine @ [2, 0, 0, 1], [-10, -23, 36, 1])


def test_a_single_slice_knows_where_it_lies() -> None:
    affine = read([plane(6.0)], 2).affine
    assert affine is not None
    np.testing.assert_allclose(affine @ [0, 1, 2, 1], [-11, -22, 36, 1])


def test_a_single_slice_is_no_volume() -> None:
    with pytest.raises(Unreadable, match=r"a picture of \(4, 6\).*all its slices"):
        read([plane(6.0)], 3)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ([plane(h) for h in (0.0, 3.0, 6.0, 12.0)], "6.00 mm between slices 3 and 4 of 4: a slice may be missing"),
        ([plane(h) for h in (0.0, 3.0, 3.0, 6.0)], "two slices lie at the same position"),
        ([plane(h) for h in (0.0, 0.0)], "two slices lie at the same position"),
        ([plane(0.0), encode(dataset(RAMP, ImagePositionPatient=[1, 2, 3]))], "differ in size.*one folder a volume"),
        ([plane(0.0), plane(3.0, orientation=OBLIQUE)], "differ in orientation.*split the series"),
        ([plane(0.0), plane(3.0, spacing=(2.0, 0.6))], "differ in orientation or pixel spacing"),
        ([encode(dataset(RAMP)), encode(dataset(RAMP))], "without ImagePositionPatient cannot be ordered"),
    ],
    ids=["missing", "duplicate", "all at one place", "sizes", "orientations", "spacings", "no positions"],
)
def test_slices_that_are_no_volume_are_refused(parts: list[bytes], message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read(parts, 3)


def test_a_volume_is_no_picture() -> None:
    with pytest.raises(Unreadable, match=r"a volume of \(2, 4, 6\).*3-D model"):
        read([plane(0.0), plane(3.0)], 2)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian], ids=lambda syntax: syntax.name)
def test_a_bare_dataset_without_preamble_and_meta_header_is_read(syntax: str) -> None:
    made = dataset(RAMP)
    sink = BytesIO()
    made.save_as(sink, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=True)
    assert detect(sink.getvalue()) == "dicom"
    np.testing.assert_array_equal(pixels(sink.getvalue())[0], RAMP)


def test_a_meta_header_without_preamble_is_read() -> None:
    data = encode(dataset(RAMP))[132:]
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


def test_a_preamble_that_looks_like_tiff_is_still_dicom() -> None:
    # Whole-slide scanners write such files on purpose, and so do some archives.
    data = b"II*\0" + encode(dataset(RAMP))[4:]
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


def test_dicom_without_pixels_is_named_for_what_it_is() -> None:
    report = shipped("reportsi.dcm")
    for refuse in (lambda: inspect(report), lambda: read([report], 2)):
        with pytest.raises(Unreadable, match=r"without pixels \(Basic Text SR Storage\): leave it out"):
            refuse()


def test_pixels_without_their_size_are_no_dicom_without_pixels() -> None:
    made = dataset(RAMP)
    del made.Rows
    for refuse in (inspect, pixels):
        with pytest.raises(Unreadable, match="Rows is missing"):
            refuse(encode(made))


@pytest.mark.parametrize("syntax", [ExplicitVRLittleEndian, RLELossless, JPEG2000Lossless], ids=lambda uid: uid.name)
def test_truncated_pixels_are_refused(syntax: str) -> None:
    data = compressed(STORED[12], 12, syntax)
    with pytest.raises(Unreadable, match="damaged"):
        pixels(data[: len(data) - 120])


def test_a_damaged_jpeg_2000_is_refused_and_does_not_end_the_process() -> None:
    whole = shipped("JPEG2000.dcm")
    with pytest.raises(Unreadable, match="damaged"):
        read([whole[:-216] + whole[-167:]], 2)


@pytest.mark.parametrize("length", [132, 140, 200, 350])
def test_a_truncated_header_is_refused(length: int) -> None:
    data = encode(dataset(RAMP))[:length]
    for refuse in (lambda: inspect(data), lambda: read([data], 2)):
        with pytest.raises(Unreadable, match=r"(?i)dicom"):
            refuse()


def test_the_series_is_read_without_the_pixels() -> None:
    assert inspect(encode(dataset(RAMP))[:-100]).series == "1.2.3"
    assert inspect(encode(dataset(RAMP, SeriesInstanceUID=""))).series == ""


@pytest.mark.parametrize("width", [0.0, -1.0])
def test_a_window_has_a_width(width: float) -> None:
    with pytest.raises(ValidationError, match="width"):
        Window(center=0.0, width=width)
