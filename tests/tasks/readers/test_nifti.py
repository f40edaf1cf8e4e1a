import gzip
from pathlib import Path

import nibabel
import numpy as np
import pytest
from nibabel import Nifti1Image, Nifti1Pair, Nifti2Image

from tasks.cohort.readers import read
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
        (damaged_at(Nifti1Image(VOXELS, AFFINE).to_bytes(), 70), "damaged or unsupported nifti"),
        (Nifti1Image(VOXELS.astype(np.complex64), AFFINE).to_bytes(), r"voxels of type complex64 \(datatype 32\): convert them"),
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
