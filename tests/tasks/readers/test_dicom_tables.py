"""Lookup tables; pydicom is the oracle where its own tables are right."""

from collections.abc import Sequence
from io import BytesIO

import numpy as np
import pydicom
import pytest
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut
from pydicom.uid import ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from tasks.cohort.reading import Unreadable
from tests.tasks.readers.test_dicom import RNG, dataset, encode, item, pixels

STORED = RNG.integers(0, 256, (6, 6)).astype(np.uint16)
SYNTAXES = [ExplicitVRLittleEndian, ImplicitVRLittleEndian, ExplicitVRBigEndian]


def encoded(made: Dataset, syntax: str) -> bytes:
    if syntax == ExplicitVRBigEndian:
        made.PixelData = np.frombuffer(made.PixelData, "<u2").astype(">u2").tobytes()
    return encode(made, syntax)


def in_words(table: NDArray[np.integer], syntax: str, *, packed: bool = False) -> bytes:
    words = table.astype(np.uint8).view("<u2") if packed else table
    return words.astype(">u2" if syntax == ExplicitVRBigEndian else "<u2").tobytes()


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("vr", ["US", "OW"])
@pytest.mark.parametrize(
    ("sequence", "apply"), [("ModalityLUTSequence", apply_modality_lut), ("VOILUTSequence", apply_voi_lut)]
)
@pytest.mark.parametrize("first", [0, 100])
def test_tables_of_words_and_of_lists_are_looked_up(
    syntax: str, vr: str, sequence: str, apply: object, first: int
) -> None:
    table = np.arange(100) * 9 + 1
    lut = item(LUTDescriptor=[100, first, 16], ModalityLUTType="US")
    lut.add_new("LUTData", vr, table.tolist() if vr == "US" else in_words(table, syntax))
    lut["LUTDescriptor"].VR = "US"
    data = encoded(dataset(STORED, 16, **{sequence: [lut]}), syntax)
    file = pydicom.dcmread(BytesIO(data))
    np.testing.assert_array_equal(pixels(data, "file")[0], apply(file.pixel_array, file))  # type: ignore[operator]
    np.testing.assert_array_equal(pixels(data, "file")[0], table[np.clip(STORED.astype(int) - first, 0, 99)])


def test_a_voi_table_comes_before_a_window_and_after_the_modality_table() -> None:
    first, second = (RNG.permutation(256) for _ in range(2))
    luts = [item(LUTDescriptor=[256, 0, 8], LUTData=table.astype(np.uint16).tobytes()) for table in (first, second)]
    for lut in luts:
        lut["LUTDescriptor"].VR, lut["LUTData"].VR = "US", "OW"
    made = dataset(STORED, 16, ModalityLUTSequence=luts[:1], VOILUTSequence=luts[1:], WindowCenter=7, WindowWidth=9)
    np.testing.assert_array_equal(pixels(encode(made), "file")[0], second[first[STORED]])
    np.testing.assert_array_equal(pixels(encode(made))[0], first[STORED])


def test_0_entries_are_65536_from_a_negative_value_on() -> None:
    stored = RNG.integers(-(2**15), 2**15, (6, 6)).astype(np.int16)
    table = RNG.integers(0, 2**16, 2**16)
    lut = item(ModalityLUTType="US", LUTData=in_words(table, ExplicitVRLittleEndian))
    lut["LUTData"].VR = "OW"
    lut.add_new("LUTDescriptor", "US", [0, 2**15, 16])  # -32768, as an unsigned value
    made = dataset(stored, 16, ModalityLUTSequence=[lut])
    np.testing.assert_array_equal(pixels(encode(made))[0], table[stored.astype(int) + 2**15])


@pytest.mark.parametrize(("vr", "first"), [("US", 2**16 - 1024), ("SS", -1024)])
def test_a_voi_table_may_begin_below_0(vr: str, first: int) -> None:
    table = RNG.integers(0, 2**16, 2**12)
    lut = item(LUTData=in_words(table, ExplicitVRLittleEndian))
    lut["LUTData"].VR = "OW"
    lut.add_new("LUTDescriptor", vr, [2**12, first, 16])
    made = dataset(STORED + 1100, 16, RescaleIntercept=-1024, VOILUTSequence=[lut])
    np.testing.assert_array_equal(pixels(encode(made), "file")[0], table[STORED + 1100])


def with_palette(
    stored: NDArray[np.integer], tables: Sequence[bytes], descriptor: Sequence[int], *, segmented: bool = False
) -> Dataset:
    made = dataset(stored, 8 * stored.dtype.itemsize, PhotometricInterpretation="PALETTE COLOR")
    for colour, table in zip(("Red", "Green", "Blue"), tables, strict=True):
        made.add_new(f"{colour}PaletteColorLookupTableDescriptor", "US", [*descriptor])
        made.add_new(f"{'Segmented' * segmented}{colour}PaletteColorLookupTableData", "OW", table)
    return made


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize(("bits", "packed"), [(8, True), (8, False), (12, False), (16, False)])
def test_a_palette_gives_its_colours_in_eight_bits(syntax: str, bits: int, packed: bool) -> None:
    tables = RNG.integers(0, 2**bits, (3, 200))
    made = with_palette(STORED, [in_words(table, syntax, packed=packed) for table in tables], [200, 20, bits])
    expected = tables[:, np.clip(STORED.astype(int) - 20, 0, 199)] / (2**bits - 1) * 255
    data = encoded(made, syntax)
    np.testing.assert_allclose(pixels(data), expected, atol=1e-4)
    if syntax != ExplicitVRBigEndian and (packed or bits == 16):
        file = pydicom.dcmread(BytesIO(data))
        by_pydicom = apply_color_lut(file.pixel_array, file).astype(float) / (2**bits - 1) * 255
        np.testing.assert_allclose(np.moveaxis(by_pydicom, -1, 0), expected, atol=1e-4)


def test_a_palette_of_8_bits_may_have_65536_entries() -> None:
    stored = RNG.integers(0, 2**16, (6, 6)).astype(np.uint16)
    tables = RNG.integers(0, 256, (3, 2**16))
    made = with_palette(stored, [in_words(table, "", packed=True) for table in tables], [0, 0, 8])
    np.testing.assert_allclose(pixels(encode(made)), tables[:, stored], atol=1e-4)


@pytest.mark.parametrize("syntax", SYNTAXES, ids=lambda syntax: syntax.keyword)
@pytest.mark.parametrize("bits", [8, 16])
def test_a_segmented_palette_is_expanded(syntax: str, bits: int) -> None:
    segments = np.array([0, 3, 10, 20, 200, 1, 150, 7, 1, 100, 250, 0, 3, 1, 2, 3])
    made = with_palette(STORED, [in_words(segments, syntax, packed=bits == 8)] * 3, [256, 0, bits], segmented=True)
    data = encoded(made, syntax)
    ours = pixels(data)
    assert len(np.unique(ours[0])) > 20
    little = encode(
        with_palette(STORED, [in_words(segments, "", packed=bits == 8)] * 3, [256, 0, bits], segmented=True)
    )
    file = pydicom.dcmread(BytesIO(little))
    by_pydicom = apply_color_lut(file.pixel_array, file).astype(float) / (2**bits - 1) * 255
    np.testing.assert_allclose(ours, np.moveaxis(by_pydicom, -1, 0), atol=1e-4)


@pytest.mark.parametrize(
    ("table", "descriptor", "segmented", "reason"),
    [
        (bytes(100), [256, 0, 16], False, "RedPaletteColorLookupTableData has 50 entries.*declares 256"),
        (bytes(512), [256, 0, 32], False, "RedPaletteColorLookupTableDescriptor declares 32 bits"),
        (b"\xff\xff" * 256, [256, 0, 8], False, "holds 65535, and its descriptor declares 8 bits"),
        (b"\1\0\5\0\7\0", [256, 0, 16], True, "segment of kind 1 and length 5"),
        (b"\0\0\1\0\7\0\2\0\1\0\0\0\0\0", [256, 0, 16], True, "segment of kind 2 and length 1"),
        (b"\0\0\1\0\7\0", [256, 0, 16], True, "has 1 entries"),
        (b"", [256, 0, 16], False, "SegmentedRedPaletteColorLookupTableData is missing or empty"),
    ],
)
def test_a_palette_that_says_another_thing_is_refused(
    table: bytes, descriptor: Sequence[int], segmented: bool, reason: str
) -> None:
    with pytest.raises(Unreadable, match=reason):
        pixels(encode(with_palette(STORED, [table] * 3, descriptor, segmented=segmented)))
