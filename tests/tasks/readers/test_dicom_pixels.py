"""Which stored numbers are which values; pydicom, on the file itself, is the oracle."""

from io import BytesIO

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.cohort.readers import read
from tasks.cohort.reading import Unreadable, Window
from tests.tasks.readers.test_dicom import RAMP, RNG, dataset, encode, item, pixels, shipped


def without(made: Dataset, *keywords: str) -> Dataset:
    for keyword in keywords:
        delattr(made, keyword)
    return made


def rescaled_by_pydicom(data: bytes) -> NDArray[np.float64]:
    file = pydicom.dcmread(BytesIO(data))
    return apply_modality_lut(file.pixel_array, file).astype(np.float64)


@pytest.mark.parametrize(
    ("dtype", "bits"),
    [(np.uint8, 8), (np.int8, 8), (np.int16, 12), (np.int16, 16), (np.uint32, 32), (np.int32, 32)],
    ids=lambda value: getattr(value, "__name__", value),
)
@pytest.mark.parametrize(
    "syntax", [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.keyword
)
def test_numbers_of_each_depth_are_rescaled(dtype: type, bits: int, syntax: str) -> None:
    signed = np.dtype(dtype).kind == "i"
    stored = RNG.integers(-(2 ** (bits - 1)) * signed, 2 ** (bits - signed), (6, 8)).astype(dtype)
    made = dataset(stored, bits, RescaleSlope="0.5", RescaleIntercept=-1024)
    if syntax == ExplicitVRBigEndian:
        made.PixelData = stored.astype(stored.dtype.newbyteorder(">")).tobytes()
    data = encode(made, syntax)
    np.testing.assert_array_equal(rescaled_by_pydicom(data), stored * 0.5 - 1024)
    np.testing.assert_array_equal(pixels(data)[0], (stored * 0.5 - 1024).astype(np.float32))


def test_what_float32_cannot_hold_is_rescaled_first() -> None:
    stored = np.array([[2**24, 2**24 + 1, 2**24 + 2]], np.uint32)
    data = encode(dataset(stored, 32, RescaleIntercept=-(2**24)))
    np.testing.assert_array_equal(pixels(data)[0], [[0, 1, 2]])


@pytest.mark.parametrize(
    ("elements", "slope", "intercept"),
    [
        ({"RescaleSlope": 2}, 2, 0),
        ({"RescaleIntercept": -1024}, 1, -1024),
        ({"RescaleSlope": 2, "RescaleIntercept": None}, 2, 0),
        ({"RescaleSlope": None, "RescaleIntercept": -7}, 1, -7),
        ({"RescaleSlope": None, "RescaleIntercept": None}, 1, 0),
        ({"RescaleSlope": -1.5, "RescaleIntercept": 4}, -1.5, 4),
    ],
    ids=str,
)
@pytest.mark.parametrize("place", ["file", "shared", "frame"])
def test_what_is_missing_of_slope_and_intercept_changes_nothing(
    elements: dict[str, float | None], slope: float, intercept: float, place: str
) -> None:
    made = dataset(RAMP, **(elements if place == "file" else {}))
    groups = [item(PixelValueTransformationSequence=[item(**elements)])]
    if place == "shared":
        made.SharedFunctionalGroupsSequence = groups
    if place == "frame":
        made.PerFrameFunctionalGroupsSequence = groups
    np.testing.assert_array_equal(pixels(encode(made))[0], slope * RAMP.astype(np.float64) + intercept)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"RescaleSlope": 0, "RescaleIntercept": 0}, "RescaleSlope is 0"),
        ({"DoseGridScaling": 0}, "DoseGridScaling is 0"),
        ({"Modality": "RTDOSE"}, "DoseGridScaling is missing"),
        ({"BitsStored": 17}, "BitsStored is 17, and BitsAllocated 16"),
        ({"HighBit": 15, "PixelData": (RAMP * 16).tobytes()}, "HighBit is 15 and BitsStored 12"),
        ({"PhotometricInterpretation": "RGB"}, "PhotometricInterpretation is none of grey"),
        ({"HighBit": 15, "PixelData": (RAMP % 16 * 16).tobytes()}, "HighBit is 15 and BitsStored 12"),
        ({"PixelData": bytes(480)}, "NumberOfFrames is 1, and PixelData holds another frame or more"),
        ({"PixelPaddingValue": 0, "PixelPaddingRangeLimit": 4095}, "each pixel is padding"),
    ],
    ids=str,
)
def test_what_says_nothing_of_values_is_refused_by_its_name(elements: dict[str, object], reason: str) -> None:
    with pytest.raises(Unreadable, match=reason):
        pixels(encode(dataset(RAMP, **elements)))


@pytest.mark.parametrize(
    "keyword", ["BitsStored", "BitsAllocated", "SamplesPerPixel", "PixelRepresentation", "Columns"]
)
def test_what_is_missing_is_named(keyword: str) -> None:
    for made in (without(dataset(RAMP), keyword), dataset(RAMP, **{keyword: None})):
        with pytest.raises(Unreadable, match=f"{keyword} is missing or empty"):
            pixels(encode(made))


@pytest.mark.parametrize(
    "keyword",
    ["NumberOfFrames", "WindowWidth", "WindowCenter", "PixelPaddingValue", "VOILUTSequence", "ModalityLUTSequence"],
)
def test_an_empty_element_is_none(keyword: str) -> None:
    made = dataset(RAMP, WindowWidth=100, WindowCenter=100)
    setattr(made, keyword, [] if keyword.endswith("Sequence") else None)
    expected = RAMP if keyword.startswith("Window") else np.clip(RAMP, 50, 149)
    np.testing.assert_array_equal(pixels(encode(made), "file")[0], expected)


def test_less_than_a_frame_more_is_padding() -> None:
    np.testing.assert_array_equal(pixels(encode(dataset(RAMP, PixelData=RAMP.tobytes() + bytes(200))))[0], RAMP)


@pytest.mark.parametrize("dtype", [np.uint16, np.int16])
def test_bits_that_are_not_in_use_may_hold_anything(dtype: type) -> None:
    stored = (RAMP.astype(dtype) | 0x5000).astype(dtype)
    data = encode(dataset(stored))
    np.testing.assert_array_equal(pixels(data)[0], rescaled_by_pydicom(data))
    assert pixels(data).max() < 4096


def test_a_wrong_high_bit_does_no_harm_where_all_bits_above_are_0() -> None:
    np.testing.assert_array_equal(pixels(encode(dataset(RAMP, HighBit=15)))[0], RAMP)


@pytest.mark.parametrize(("keyword", "dtype"), [("FloatPixelData", np.float32), ("DoubleFloatPixelData", np.float64)])
def test_float_pixels_are_values(keyword: str, dtype: type) -> None:
    values = RNG.normal(size=(6, 8)).astype(dtype)
    made = without(dataset(RAMP), "PixelData", "BitsStored", "HighBit", "PixelRepresentation")
    made.Rows, made.Columns, made.BitsAllocated = 6, 8, 8 * values.dtype.itemsize
    setattr(made, keyword, values.tobytes())
    np.testing.assert_array_equal(pixels(encode(made))[0], values.astype(np.float32))
    setattr(made, keyword, np.full_like(values, np.nan).tobytes())
    with pytest.raises(Unreadable, match="not finite"):
        pixels(encode(made))


def test_a_dose_is_scaled() -> None:
    data = shipped("rtdose.dcm")
    file = pydicom.dcmread(BytesIO(data))
    expected = file.pixel_array * float(file.DoseGridScaling)
    np.testing.assert_allclose(read([data], 3).pixels[0], expected, rtol=1e-6)


def test_groups_of_one_frame_may_be_of_more() -> None:
    group = item(PixelValueTransformationSequence=[item(RescaleSlope=3, RescaleIntercept=1)])
    made = dataset(RAMP, PerFrameFunctionalGroupsSequence=[group, Dataset(), Dataset()])
    np.testing.assert_array_equal(pixels(encode(made))[0], 3.0 * RAMP + 1)


def test_groups_of_other_frames_are_refused() -> None:
    frames = np.zeros((3, 4, 5), np.uint16)
    made = dataset(frames, Rows=4, Columns=5, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=[Dataset()] * 2)
    with pytest.raises(Unreadable, match="NumberOfFrames is 3, but PerFrameFunctionalGroupsSequence has 2 items"):
        read([encode(made)], 3)


@pytest.mark.parametrize(
    ("function", "low", "high"),
    # A width of 401 is 400 wide by DICOM's linear function, about a centre half a unit lower (PS3.3 C.11.2.1.2).
    [(None, -160.5, 239.5), ("LINEAR", -160.5, 239.5), ("LINEAR_EXACT", -160.5, 240.5)],
)
def test_the_files_window_clips_in_the_units_of_the_values(function: str | None, low: float, high: float) -> None:
    made = dataset(RAMP, RescaleSlope=1, RescaleIntercept=-1024, WindowCenter=40, WindowWidth=401)
    if function:
        made.VOILUTFunction = function
    data = encode(made)
    np.testing.assert_array_equal(pixels(data, "file")[0], np.clip(RAMP - 1024.0, low, high))
    file = pydicom.dcmread(BytesIO(data))  # whose windows are stretched over what 12 bits hold
    stretched = apply_voi_lut(apply_modality_lut(file.pixel_array, file), file)
    np.testing.assert_allclose((stretched + 1024) / 4095 * (high - low) + low, pixels(data, "file")[0], atol=1e-3)


def test_a_sigmoid_is_bent_within_the_window() -> None:
    data = encode(dataset(RAMP, WindowCenter=2000, WindowWidth=1000, VOILUTFunction="SIGMOID"))
    file = pydicom.dcmread(BytesIO(data))
    stretched = apply_voi_lut(file.pixel_array, file)
    np.testing.assert_allclose(pixels(data, "file")[0], 1500 + stretched / 4095 * 1000, rtol=1e-6)


@pytest.mark.parametrize("window", ["file", Window(center=40.0, width=400.0), "none"], ids=["file", "fixed", "none"])
@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
def test_values_do_not_depend_on_the_depth_that_a_file_declares(window: Window, photometric: str) -> None:
    found = [
        pixels(
            encode(
                dataset(
                    RAMP.astype(dtype),
                    bits,
                    RescaleIntercept=-1024,
                    WindowCenter=40,
                    WindowWidth=400,
                    PhotometricInterpretation=photometric,
                )
            ),
            window,
        )
        for dtype, bits in ((np.uint16, 12), (np.uint16, 16), (np.int16, 13), (np.uint32, 32))
    ]
    for other in found[1:]:
        np.testing.assert_array_equal(found[0], other)


def test_a_fixed_window_heeds_no_function_of_the_file_and_may_be_narrow() -> None:
    made = dataset(RAMP, RescaleSlope=1 / 4095, WindowCenter=2000, WindowWidth=0, VOILUTFunction="SIGMOID")
    values = pixels(encode(made), Window(center=0.5, width=0.5))[0]
    np.testing.assert_allclose(values, np.clip(RAMP / 4095, 0.25, 0.75), atol=1e-6)


def test_the_first_of_several_windows_in_the_file_is_used() -> None:
    several = dataset(RAMP, WindowCenter=[100, 2000], WindowWidth=[50, 4000])
    np.testing.assert_array_equal(pixels(encode(several), "file")[0], np.clip(RAMP, 75, 124))


@pytest.mark.parametrize(("width", "function"), [(0, "LINEAR"), (0.5, "LINEAR"), (0, "LINEAR_EXACT"), (-3, "SIGMOID")])
def test_a_window_that_shows_nothing_is_refused(width: float, function: str) -> None:
    data = encode(dataset(RAMP, WindowCenter=100, WindowWidth=width, VOILUTFunction=function))
    with pytest.raises(Unreadable, match=rf"WindowWidth is {width:g}.*\({function}\)"):
        pixels(data, "file")
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


def test_monochrome1_is_mirrored_over_the_whole_volume() -> None:
    frames = np.stack([RAMP, RAMP // 2 + 7])
    made = dataset(frames, Rows=12, Columns=10, NumberOfFrames=2, PhotometricInterpretation="MONOCHROME1")
    np.testing.assert_array_equal(read([encode(made)], 3).pixels[0], RAMP.max() - frames.astype(int))


def test_a_fixed_window_is_mirrored_about_its_centre() -> None:
    data = encode(dataset(RAMP, PhotometricInterpretation="MONOCHROME1"))
    values = pixels(data, Window(center=5000.0, width=4000.0))[0]
    np.testing.assert_array_equal(values, 10000.0 - np.clip(RAMP, 3000, 7000))


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize(
    ("padding", "bits", "elements"),
    [
        (-2000, 12, {"PixelPaddingValue": -2000}),
        (-2000, 16, {"PixelPaddingValue": -2000}),
        (-32768, 13, {"PixelPaddingValue": -32768}),
        (-2000, 12, {"PixelPaddingValue": -1990, "PixelPaddingRangeLimit": -2048}),
    ],
    ids=str,
)
def test_padding_is_as_dark_as_the_darkest_of_the_rest(
    photometric: str, padding: int, bits: int, elements: dict[str, object]
) -> None:
    shown = RAMP // 2
    stored = np.where(shown < 500, padding, shown).astype(np.int16)
    made = dataset(stored, bits, RescaleIntercept=-1024, PhotometricInterpretation=photometric, **elements)
    rest = shown[shown >= 500]
    bright = shown - 1024.0 if photometric == "MONOCHROME2" else rest.min() + rest.max() - shown - 1024.0
    expected = np.where(shown < 500, bright[shown >= 500].min(), bright)
    np.testing.assert_array_equal(pixels(encode(made))[0], expected)


def test_padding_of_the_other_sign_is_the_same_bits() -> None:
    made = dataset(np.where(RAMP < 500, -2000, RAMP // 2).astype(np.int16), 16)
    made.add_new("PixelPaddingValue", "US", 2**16 - 2000)
    assert pixels(encode(made)).min() == RAMP[RAMP >= 500].min() // 2


def test_slices_that_are_bright_the_other_way_round_are_refused() -> None:
    parts = [encode(dataset(RAMP, PhotometricInterpretation=f"MONOCHROME{kind}")) for kind in (1, 2)]
    with pytest.raises(Unreadable, match="split the series by PhotometricInterpretation"):
        read(parts, 3)


@pytest.mark.parametrize(
    ("elements", "reason"),
    [
        ({"PhotometricInterpretation": "HSV"}, "PhotometricInterpretation is not read: MONOCHROME1"),
        ({"PhotometricInterpretation": ""}, "PhotometricInterpretation is not read: MONOCHROME1"),
        ({"PhotometricInterpretation": "YBR_RCT"}, "says how they were compressed"),
        ({"PhotometricInterpretation": "YBR_FULL_422"}, "PixelData are as large as YBR_FULL or RGB would be"),
        ({"PlanarConfiguration": None}, "PlanarConfiguration is missing"),
        ({"SamplesPerPixel": 4}, "SamplesPerPixel is 4: 1 or 3"),
        ({"BitsAllocated": 12}, "BitsAllocated is 12"),
    ],
    ids=str,
)
def test_colours_that_are_not_told_are_refused(elements: dict[str, object], reason: str) -> None:
    described: dict[str, object] = {"SamplesPerPixel": 3, "PlanarConfiguration": 0, "PhotometricInterpretation": "RGB"}
    with pytest.raises(Unreadable, match=reason):
        pixels(encode(dataset(np.zeros((4, 4, 3), np.uint8), 8, **described | elements)))
