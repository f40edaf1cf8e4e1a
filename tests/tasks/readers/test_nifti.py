import gzip
import tracemalloc
from contextlib import suppress
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import Nifti1Image, Nifti1Pair, Nifti2Image

from tasks.cohort.readers import inspect, read
from tasks.cohort.reading import Unreadable

VOXELS = np.random.default_rng(6).integers(-1000, 1000, (5, 6, 7)).astype(np.int16)
# Oblique, anisotropic and with a left-handed axis.
AFFINE = np.array([[-1.5, 0.2, 0, 90], [0.3, 2.0, -0.4, -126], [0, 0.3, 3.0, -72], [0, 0, 0, 1]])


def damaged_at(data: bytes, offset: int) -> bytes:
    return data[:offset] + b"\xff\xff\xff\xff" + data[offset + 4 :]


@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image], ids=["NIfTI-1", "NIfTI-2"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<f4", "<f8"])
def test_volumes_are_read_with_x_last(kind: type, pack: type, dtype: str) -> None:
    data = pack(kind(VOXELS.astype(dtype), AFFINE).to_bytes())
    decoded = read([data], 3)
    assert decoded.pixels.dtype == np.float32 and decoded.pixels.flags.c_contiguous
    np.testing.assert_array_equal(decoded.pixels[0], np.transpose(VOXELS))


@pytest.mark.parametrize("codes", [(1, 0), (0, 1), (2, 1)], ids=["sform", "qform", "both"])
def test_a_marked_voxel_lies_where_nibabel_says(codes: tuple[int, int]) -> None:
    voxels = np.zeros((5, 6, 7), np.uint8)
    voxels[4, 1, 3] = 200
    image = Nifti1Image(voxels, None)
    rotated = np.array([[0, -2, 0, 11], [3, 0, 0, -12], [0, 0, 4, 13], [0, 0, 0, 1.0]])
    image.set_sform(AFFINE if codes[0] else None, codes[0])
    image.set_qform(rotated if codes[1] else None, codes[1])
    decoded = read([image.to_bytes()], 3)
    assert decoded.affine is not None
    (_, z, y, x) = np.argwhere(decoded.pixels)[0]
    used = AFFINE if codes[0] else rotated
    np.testing.assert_allclose(decoded.affine @ [z, y, x, 1], used @ [4, 1, 3, 1], atol=1e-4)
    np.testing.assert_allclose(
        (decoded.affine @ [z, y, x, 1])[:3], nibabel.affines.apply_affine(image.affine, [4, 1, 3]), atol=1e-6
    )


def test_values_are_scaled() -> None:
    image = Nifti1Image(VOXELS, AFFINE)
    image.header.set_data_dtype(np.int16)
    data = bytearray(image.to_bytes())
    data[112:120] = np.array([0.25, -7], "<f4").tobytes()  # scl_slope and scl_inter in the NIfTI-1 header
    np.testing.assert_allclose(read([bytes(data)], 3).pixels[0], np.transpose(VOXELS) * 0.25 - 7)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1), (5, 6, 1, 1)], ids=str)
def test_one_slice_is_a_picture(shape: tuple[int, ...]) -> None:
    decoded = read([Nifti1Image(VOXELS[:, :, 0].reshape(shape), AFFINE).to_bytes()], 2)
    np.testing.assert_array_equal(decoded.pixels[0], VOXELS[:, :, 0].T)
    assert decoded.affine is not None
    np.testing.assert_allclose(decoded.affine @ [0, 2, 3, 1], AFFINE @ [3, 2, 0, 1], atol=1e-4)


@pytest.mark.parametrize(("shape", "dims"), [((5, 6, 7, 3), 3), ((5, 6, 1, 3), 2)], ids=str)
def test_a_fourth_axis_is_the_channel(shape: tuple[int, ...], dims: int) -> None:
    voxels = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
    decoded = read([Nifti1Image(voxels, AFFINE).to_bytes()], dims).pixels
    assert decoded.shape == ((3, 7, 6, 5) if dims == 3 else (3, 6, 5))
    for channel in range(3):
        np.testing.assert_array_equal(decoded[channel].squeeze(), voxels[..., channel].squeeze().T)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (Nifti1Image(VOXELS, AFFINE).to_bytes()[:-20], "damaged: the file declares pixels of 772 bytes and holds 752"),
        (Nifti1Image(VOXELS, AFFINE).to_bytes()[:360], "damaged: .* holds 360"),
        (gzip.compress(Nifti1Image(VOXELS, AFFINE).to_bytes())[:-60], "damaged or unsupported nifti .EOFError"),
        (damaged_at(gzip.compress(Nifti1Image(VOXELS, AFFINE).to_bytes()), -8), "damaged or unsupported nifti"),
        (damaged_at(Nifti1Image(VOXELS, AFFINE).to_bytes(), 70), "NIfTI has no datatype -1: damaged"),
        (
            Nifti1Image(VOXELS.astype(np.complex64), AFFINE).to_bytes(),
            r"voxels of type complex64 \(datatype 32\): convert them",
        ),
        (Nifti1Image(np.zeros((2, 2, 2, 2, 3), "u1"), AFFINE).to_bytes(), r"shape \(2, 2, 2, 2, 3\): a picture, a vol"),
        (Nifti1Image(np.zeros(5, "u1"), AFFINE).to_bytes(), "a picture, a volume"),
        (Nifti1Image(np.zeros((4, 5, 1), "u1"), AFFINE).to_bytes(), r"a picture of \(5, 4\)"),
    ],
    ids=["cut", "only header", "cut gzip", "gzip checksum", "datatype", "complex", "5-D", "1-D", "2-D"],
)
def test_what_is_no_volume_is_refused_with_a_reason(data: bytes, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read([data], 3)


def test_rgb_voxels_are_refused() -> None:
    voxels = np.zeros((4, 5, 6), np.dtype([("R", "u1"), ("G", "u1"), ("B", "u1")]))
    with pytest.raises(Unreadable, match="voxels of type"):
        read([Nifti1Image(voxels, AFFINE).to_bytes()], 3)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_the_header_of_a_pair_is_refused(pack: type, tmp_path: Path) -> None:
    nibabel.save(Nifti1Pair(VOXELS, AFFINE), tmp_path / "pair.img")
    with pytest.raises(Unreadable, match=r"without its image .*convert the pair to one .nii"):
        read([pack((tmp_path / "pair.hdr").read_bytes())], 3)


def test_several_files_are_not_one_image() -> None:
    data = Nifti1Image(VOXELS, AFFINE).to_bytes()
    with pytest.raises(Unreadable, match="2 files for one image, but only DICOM has series"):
        read([data, data], 3)


def test_without_sform_and_qform_there_is_no_affine() -> None:
    image = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.float32), None)
    image.header.set_sform(None, code=0)
    image.header.set_qform(None, code=0)
    assert read([image.to_bytes()], 3).affine is None


def with_fields(data: bytes, **fields: object) -> bytes:
    """Write fields into a NIfTI-1 or NIfTI-2 header, whatever they say."""
    kind = nibabel.Nifti2Header if data[4:8] == b"n+2\0" else nibabel.Nifti1Header
    size = kind.template_dtype.itemsize
    header = kind(data[:size], check=False)
    for name, value in fields.items():
        header[name] = value
    return header.binaryblock + data[size:]


def placed(sform: int, qform: int, kind: type = Nifti1Image) -> bytes:
    image = kind(VOXELS, None)
    image.set_sform(AFFINE, sform)
    image.set_qform(np.diag([1, 2, 3, 1.0]), qform)
    return bytes(image.to_bytes())


@pytest.mark.parametrize(("unit", "millimetres"), [("unknown", 1), ("meter", 1000), ("mm", 1), ("micron", 0.001)])
@pytest.mark.parametrize("codes", [(2, 0), (0, 1)], ids=["sform", "qform"])
@pytest.mark.parametrize("kind", [Nifti1Image, Nifti2Image])
def test_the_affine_is_in_millimetres_whatever_the_unit(
    unit: str, millimetres: float, codes: tuple[int, int], kind: type
) -> None:
    image = kind(VOXELS, None)
    image.set_sform(np.diag([2, 3, 4, 1.0]), codes[0])
    image.set_qform(np.diag([2, 3, 4, 1.0]), codes[1])
    image.header.set_xyzt_units(unit, "sec")
    affine = read([image.to_bytes()], 3).affine
    assert affine is not None
    np.testing.assert_allclose(affine @ [1, 1, 1, 1], [*np.multiply([2, 3, 4], millimetres), 1], rtol=1e-6)


def test_a_unit_that_nifti_does_not_know_is_refused() -> None:
    with pytest.raises(Unreadable, match="xyzt_units has the unit of length 5, which NIfTI does not know"):
        inspect(with_fields(placed(2, 0), xyzt_units=5))


WRONG_GEOMETRY: dict[str, tuple[bytes, dict[str, object], str]] = {
    "sform of zeros": (placed(2, 0), dict.fromkeys(("srow_x", "srow_y", "srow_z"), 0), "srow_x, srow_y, srow_z"),
    "sform in a plane": (placed(1, 0), {"srow_z": [-1.5, 0.2, 0, 90]}, "srow_x"),
    "sform NaN": (placed(1, 0), {"srow_y": np.nan}, "srow_x"),
    "sform of next to nothing": (placed(1, 0), {"srow_x": [1e-30, 0, 0, 0]}, "srow_x"),
    "sform far away": (placed(1, 0), {"srow_x": [1, 0, 0, 1e30]}, "srow_x"),
    "sform infinite": (placed(1, 0), {"srow_y": [0, 1, 0, np.inf]}, "srow_x"),
    "sform of zeros beside a qform": (placed(1, 1), dict.fromkeys(("srow_x", "srow_y", "srow_z"), 0), "srow_x"),
    "no width": (placed(0, 1), {"pixdim": [1, 0, 2, 3, 1, 1, 1, 1]}, r"pixdim\[1\] is 0 mm"),
    "next to no width": (placed(0, 1), {"pixdim": [1, 1e-30, 2, 3, 1, 1, 1, 1]}, r"pixdim\[1\] is 1e-30 mm"),
    "width NaN": (placed(0, 1), {"pixdim": [1, 1, np.nan, 3, 1, 1, 1, 1]}, r"pixdim\[2\] is nan mm"),
    "depth infinite": (placed(1, 0), {"pixdim": [1, 1, 2, np.inf, 1, 1, 1, 1]}, r"pixdim\[3\] is inf mm"),
    "no rotation": (placed(0, 1), {"quatern_b": 3}, "quatern_b, quatern_c, quatern_d"),
    "rotation NaN": (placed(0, 1), {"quatern_c": np.nan}, "quatern_b"),
    "offset infinite": (placed(0, 1), {"qoffset_x": np.inf}, "qoffset"),
}


@pytest.mark.parametrize("wrong", WRONG_GEOMETRY)
@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_a_geometry_that_is_none_is_refused_by_the_header_with_its_field(wrong: str, pack: type) -> None:
    data, fields, message = WRONG_GEOMETRY[wrong]
    for refuse in (inspect, lambda data: read([data], 3)):
        with pytest.raises(Unreadable, match=message):
            refuse(pack(with_fields(data, **fields)))


@pytest.mark.parametrize(
    "fields",
    [
        {"srow_x": 0, "pixdim": [1, 0, 0, 0, 1, 1, 1, 1]},
        {"quatern_b": np.nan, "qform_code": -1},
        {"sform_code": 99, "srow_x": 0},  # nibabel takes a code that it does not know for none
    ],
    ids=["zeros", "negative code", "unknown code"],
)
def test_a_geometry_that_the_header_does_not_claim_is_not_looked_at(fields: dict[str, object]) -> None:
    assert read([with_fields(placed(0, 0), **fields)], 3).affine is None


def test_a_negative_spacing_is_taken_as_nibabel_takes_it() -> None:
    data = with_fields(placed(0, 1), pixdim=[1, -1, 2, 3, 1, 1, 1, 1])
    affine = read([data], 3).affine
    assert affine is not None
    np.testing.assert_allclose(affine[:, [2, 1, 0, 3]], Nifti1Image.from_bytes(data).affine)


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 1)], ids=str)
def test_a_picture_needs_no_third_axis(shape: tuple[int, ...]) -> None:
    image = Nifti1Image(np.ones(shape, np.float32), np.diag([2, 3, 4, 1.0]))
    rows = {"srow_x": [2, 0, 0, 7], "srow_y": [0, 3, 0, 8], "srow_z": [0, 0, 0, 9]}
    affine = read([with_fields(image.to_bytes(), **rows, pixdim=[1, 2, 3, 0, 0, 0, 0, 0])], 2).affine
    assert affine is not None
    np.testing.assert_array_equal(affine @ [0, 4, 5, 1], [17, 20, 9, 1])
    assert np.linalg.matrix_rank(affine) == 4


@pytest.mark.parametrize(
    ("kind", "offset"),
    [(Nifti1Image, offset) for offset in (0, 100, -352, 2**25, 2**30, 1e30, np.nan, np.inf, -np.inf, 352.5)]
    + [(Nifti2Image, offset) for offset in (0, 352, -544, 2**25, 2**62)],
)
def test_voxels_begin_soon_after_the_header(kind: type, offset: float) -> None:
    data = with_fields(placed(1, 0, kind), vox_offset=offset)
    for packed in (data, gzip.compress(data)):
        with pytest.raises(Unreadable, match=r"vox_offset is .*, and must be a whole number from"):
            inspect(packed)


@pytest.mark.parametrize("pack", [bytes, gzip.compress], ids=["plain", "gzip"])
def test_extensions_of_the_header_are_passed_over(pack: type) -> None:
    image = Nifti1Image(VOXELS, AFFINE)
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", b"x" * 70_000))
    data = image.to_bytes()
    np.testing.assert_array_equal(read([pack(data)], 3).pixels[0], np.transpose(VOXELS))


@pytest.mark.parametrize("slope", [0, 1, 0.25, -3, np.nan, np.inf])
@pytest.mark.parametrize("intercept", [0, -7.5])
@pytest.mark.parametrize("dtype", ["u1", "<i2", ">u4", "<f4", ">f8", "i8"])
def test_values_are_those_of_nibabel(slope: float, intercept: float, dtype: str) -> None:
    stored = (100 + np.arange(210) % 100).reshape(5, 6, 7).astype(dtype)
    data = with_fields(Nifti1Image(stored, AFFINE, dtype=stored.dtype).to_bytes(), scl_slope=slope, scl_inter=intercept)
    expected = Nifti1Image.from_bytes(data).get_fdata(dtype=np.float64)
    np.testing.assert_array_equal(read([data], 3).pixels[0], expected.T.astype(np.float32))


def test_a_volume_that_is_read_in_pieces_is_whole() -> None:
    voxels = np.random.default_rng(1).integers(-1000, 1000, (70, 80, 90, 2)).astype(np.int16)
    data = with_fields(Nifti1Image(voxels, AFFINE).to_bytes(), scl_slope=0.1, scl_inter=1)
    expected = np.asarray(Nifti1Image.from_bytes(data).dataobj).T.astype(np.float32)
    for packed in (data, gzip.compress(data, 1)):
        np.testing.assert_array_equal(read([packed], 3).pixels, expected)


def test_an_intercept_that_is_no_number_is_refused() -> None:
    with pytest.raises(Unreadable, match="scl_inter is no finite number"):
        read([with_fields(placed(1, 0), scl_slope=2, scl_inter=np.nan)], 3)


@pytest.mark.parametrize("intent", ["label", "z score", "vector", "time series", "estimate"])
def test_an_intent_changes_no_value(intent: str) -> None:
    image = Nifti1Image(VOXELS, AFFINE)
    image.header.set_intent(intent)
    np.testing.assert_array_equal(read([image.to_bytes()], 3).pixels[0], np.transpose(VOXELS))


def test_vectors_in_a_fifth_axis_are_refused_with_the_shape() -> None:
    data = Nifti1Image(np.zeros((4, 5, 6, 1, 3), np.float32), AFFINE).to_bytes()
    with pytest.raises(Unreadable, match=r"shape \(4, 5, 6, 1, 3\)"):
        read([data], 3)


def test_a_volume_takes_little_more_memory_than_its_pixels() -> None:
    largest = 4 * 160**3
    volume = gzip.compress(Nifti1Image(np.zeros((160, 160, 160), np.float64), AFFINE).to_bytes(), 1)
    bomb = gzip.compress(with_fields(placed(1, 0), vox_offset=2**26)[:352] + bytes(2**26 + 420), 1)
    read([gzip.compress(placed(1, 0))], 3)
    for data in (volume, bomb):
        tracemalloc.start()
        with suppress(Unreadable):
            read([data], 3, largest=largest)
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert peak < largest + 2**24
