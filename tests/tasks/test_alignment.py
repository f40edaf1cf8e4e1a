"""The files of an image are laid onto each other where they lie in the patient; nibabel is the oracle."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from nibabel.processing import resample_from_to
from nibabel.testing import data_path
from numpy.typing import NDArray

from tasks.cohort.readers import read
from tasks.cohort.reading import Decoded, Unreadable
from tasks.work.alignment import on_one_grid

AFFINE = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, -20], [0, 0, 3, -30], [0, 0, 0, 1]])
TURN = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, -0.2, 0.5), [5, -7, 11])
SIDES = (12, 16, 8)
RNG = np.random.default_rng(3)


def loaded(name: str) -> nibabel.Nifti1Image:
    return nibabel.load(Path(data_path) / name)


def random_image(affine: NDArray[Any] = AFFINE, sides: tuple[int, ...] = SIDES) -> nibabel.Nifti1Image:
    return nibabel.Nifti1Image(RNG.normal(size=sides).astype(np.float32), affine)


def decoded(image: nibabel.Nifti1Image, spatial_dims: int = 3) -> Decoded:
    return read([image.to_bytes()], spatial_dims)


def aligned(first: nibabel.Nifti1Image, other: nibabel.Nifti1Image, align: Any = "to first") -> tuple[Decoded, bool]:
    return on_one_grid({"t1": decoded(first), "t2": decoded(other)}, align)


def volume_of(image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """Take the first of a series of volumes, in single precision: nibabel scales integers anew when it writes them."""
    return nibabel.Nifti1Image(np.asarray(image.dataobj, np.float32)[..., 0], image.affine)


def indices_in(first: nibabel.Nifti1Image, other: nibabel.Nifti1Image) -> NDArray[np.float64]:
    """Where the voxels of one image lie in another, by its indices: ``(i, j, k, 3)``."""
    here = np.stack(np.meshgrid(*map(np.arange, first.shape), indexing="ij"), -1)
    return nibabel.affines.apply_affine(np.linalg.inv(other.affine) @ first.affine, here)


PAIRS = {
    "anatomical onto functional": (volume_of(loaded("functional.nii")), loaded("anatomical.nii")),
    "functional onto anatomical": (loaded("anatomical.nii"), volume_of(loaded("functional.nii"))),
    "moved onto functional": (volume_of(loaded("functional.nii")), loaded("reoriented_anat_moved.nii")),
    "oblique": (random_image(TURN @ AFFINE @ np.diag([0.7, 0.7, 0.4, 1]), (20, 24, 22)), random_image()),
    "mirrored": (random_image(), random_image(AFFINE @ nibabel.affines.from_matvec(np.diag([-1.2, 1, 1]), [12, 0, 0]))),
}


@pytest.mark.parametrize("pair", PAIRS)
def test_a_file_is_resampled_as_nibabel_does_it(pair: str) -> None:
    first, other = PAIRS[pair]
    oracle = np.asarray(resample_from_to(other, first, order=1, mode="constant", cval=0).dataobj)
    found, is_partly_covered = aligned(first, other)
    assert found.affine is not None and np.array_equal(found.affine, decoded(first).affine)
    kept, resampled = found.pixels.transpose(0, 3, 2, 1)
    np.testing.assert_array_equal(kept, np.asarray(first.dataobj, np.float32))
    # nibabel gives 0 beyond the outermost centres; a voxel reaches half-way further.
    index, last = indices_in(first, other), np.array(other.shape) - 1
    between_centres = ((index >= 0) & (index <= last)).all(-1)
    outside = ((index < -0.5 - 1e-6) | (index > last + 0.5)).any(-1)
    assert between_centres.sum() > 100
    np.testing.assert_allclose(resampled[between_centres], oracle[between_centres], atol=1e-4 * np.abs(oracle).max())
    assert not resampled[outside].any() and is_partly_covered == outside.any()


def test_the_outermost_voxels_reach_half_way_beyond_their_centres() -> None:
    other = nibabel.Nifti1Image(np.full(SIDES, 7, np.float32), AFFINE)
    first = random_image(AFFINE @ nibabel.affines.from_matvec(np.eye(3), [-0.4, 0.4, 0]))
    found, is_partly_covered = aligned(first, other)
    assert (found.pixels[1] == 7).all() and not is_partly_covered


@pytest.mark.parametrize("align", ["same grid", "to first"])
@pytest.mark.parametrize("noise", [0, 2e-5])
def test_files_on_one_grid_keep_their_values(align: Any, noise: float) -> None:
    first = random_image()
    other = random_image(AFFINE + noise * RNG.normal(size=(4, 4)) * [[1], [1], [1], [0]])
    found, is_partly_covered = aligned(first, other, align)
    np.testing.assert_array_equal(found.pixels, np.stack([first.dataobj, other.dataobj]).transpose(0, 3, 2, 1))
    assert not is_partly_covered


@pytest.mark.parametrize("orientation", [[[0, -1], [1, -1], [2, 1]], [[2, 1], [0, -1], [1, 1]]])
def test_another_orientation_of_the_same_voxels_is_exact(orientation: list[list[int]]) -> None:
    first, other = random_image(), random_image()
    turned = other.as_reoriented(np.array(orientation))
    found, is_partly_covered = aligned(first, turned)
    np.testing.assert_array_equal(found.pixels[1], np.asarray(other.dataobj).T)
    assert not is_partly_covered
    with pytest.raises(Unreadable, match="its t2 lies on another grid than its t1"):
        aligned(first, turned, "same grid")


def test_all_channels_of_a_file_are_taken_along() -> None:
    first, other = PAIRS["functional onto anatomical"][0], loaded("functional.nii")
    found, _ = on_one_grid({"t1": decoded(first), "t2": read([Path(other.get_filename()).read_bytes()], 3)}, "to first")
    assert found.pixels.shape == (21, 25, 41, 33)
    np.testing.assert_array_equal(found.pixels[1], aligned(first, volume_of(other))[0].pixels[1])
    assert len({channel.tobytes() for channel in found.pixels}) == 21


SHIFTED = AFFINE @ nibabel.affines.from_matvec(np.eye(3), [0, 0, 0.01])
AWAY = AFFINE @ nibabel.affines.from_matvec(np.eye(3), [0, 0, 100])


@pytest.mark.parametrize(
    ("other", "align", "message"),
    [
        (
            random_image(sides=(12, 16, 9)),
            "same grid",
            r"its t2 .* than its t1, of the shape \(9, 16, 12\) and not \(8, 1",
        ),
        (random_image(SHIFTED), "same grid", "of the same shape, with corners up to 0.03 mm apart: .*align: to first"),
        (
            random_image(AWAY),
            "same grid",
            "its t2 lies 300 mm from its t1, from centre to centre, and they do not over",
        ),
        (random_image(AWAY), "to first", "its t2 lies 300 mm from its t1, from centre to centre, and they do not over"),
        (random_image(None), "to first", "its t2 has no geometry by which it could be laid onto its t1"),
    ],
    ids=["shape", "shift", "away", "away when asked", "no geometry"],
)
def test_what_cannot_be_laid_onto_the_first_is_refused(other: nibabel.Nifti1Image, align: Any, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        aligned(random_image(), other, align)


@pytest.mark.parametrize("align", ["same grid", "to first"])
def test_without_geometry_the_shapes_have_to_be_equal(align: Any) -> None:
    first, other, wide = (Decoded(RNG.random((1, 4, sides)).astype(np.float32)) for sides in (5, 5, 6))
    found, _ = on_one_grid({"red": first, "infrared": other}, align)
    np.testing.assert_array_equal(found.pixels, np.concatenate([first.pixels, other.pixels]))
    with pytest.raises(
        Unreadable, match=r"its infrared has the shape \(4, 6\), its red \(4, 5\), and they have no geo"
    ):
        on_one_grid({"red": first, "infrared": wide}, align)


def test_pictures_with_a_place_in_the_patient_are_laid_onto_each_other() -> None:
    mirrored = AFFINE @ nibabel.affines.from_matvec(np.diag([-1, 1, 1]), [11, 0, 0])
    first, other = (random_image(affine, (12, 16, 1)) for affine in (AFFINE, mirrored))
    found, _ = on_one_grid({"t1": decoded(first, 2), "t2": decoded(other, 2)}, "to first")
    np.testing.assert_array_equal(found.pixels[1], np.asarray(other.dataobj)[::-1, :, 0].T)
