"""Masks are laid onto images where they lie in the patient; nibabel and pydicom are the oracles."""

from io import BytesIO
from itertools import permutations, product
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from PIL import Image

from models.preprocessing import Preprocessing
from tasks.cohort.masks import drawn
from tasks.cohort.readers import read, read_mask
from tasks.cohort.reading import Decoded, Unreadable
from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tasks.work.masks import lacks_geometry, on_grid

SIDES = (12, 16, 8)
AFFINE = np.array([[2.0, 0, 0, -10], [0, 1.5, 0, -20], [0, 0, 3, -30], [0, 0, 0, 1]])
TURN = nibabel.affines.from_matvec(nibabel.eulerangles.euler2mat(0.3, -0.2, 0.5), [5, -7, 11])
ORIENTATIONS = [
    np.array([*zip(axes, flips, strict=True)])
    for axes in permutations(range(3))
    for flips in product((1, -1), repeat=3)
]


def volume(seed: int = 1) -> NDArray[np.uint8]:
    """Draw a mask whose parts tell every direction from every other: ``(i, j, k)``."""
    made = np.zeros(SIDES, np.uint8)
    made[1:4, 2:6, 1:3] = 1
    made[7:10, 3:5, 4:7] = 1
    made[2, 10:15, 5] = 1
    return made


MASK = volume()


def nifti(array: NDArray[Any], affine: NDArray[np.float64]) -> bytes:
    return nibabel.Nifti1Image(array, affine).to_bytes()


def image_of(affine: NDArray[np.float64], sides: tuple[int, ...] = SIDES) -> bytes:
    return nifti(np.arange(np.prod(sides), dtype=np.int16).reshape(sides), affine)


def placed(image: Decoded, mask: bytes, *components: dict[str, Any], axes: Any = "zyx") -> NDArray[np.bool_]:
    """Bring a mask onto the grid that preprocessing makes of an image."""
    prepared = Preprocessing(components, axes)(image.pixels, image.affine)
    read_in = read_mask(mask, image.pixels.ndim - 1)
    shape = prepared.image.shape[1:]
    return on_grid(drawn(read_in, None), read_in, image, prepared.to_source, shape)


def dice(one: NDArray[Any], other: NDArray[Any]) -> float:
    return 2 * float((one.astype(bool) & other.astype(bool)).sum()) / float(one.sum() + other.sum())


@pytest.mark.parametrize("orientation", ORIENTATIONS, ids=lambda o: "".join(nibabel.orientations.ornt2axcodes(o)))
@pytest.mark.parametrize("affine", [AFFINE, TURN @ AFFINE], ids=["straight", "oblique"])
def test_a_mask_in_any_orientation_lies_where_it_was_drawn(
    orientation: NDArray[Any], affine: NDArray[np.float64]
) -> None:
    stored = nibabel.Nifti1Image(MASK, affine).as_reoriented(orientation)
    for image, mask, expected in (
        (image_of(affine), stored.to_bytes(), MASK),
        (image_of(stored.affine, stored.shape), nifti(MASK, affine), np.asarray(stored.dataobj)),
    ):
        np.testing.assert_array_equal(placed(read([image], 3), mask), expected.T > 0)


@pytest.mark.parametrize("axes", ["zyx", "monai"])
@pytest.mark.parametrize("codes", ["RAS", "LPS", "SAL"])
def test_it_follows_what_preprocessing_does(axes: str, codes: str) -> None:
    """The image is the mask itself, so that both have to come out alike."""
    turned = nibabel.Nifti1Image(MASK, AFFINE).as_reoriented(np.array([[1, -1], [0, 1], [2, -1]]))
    image = read([nifti(MASK, AFFINE)], 3)
    components = [
        {"_target_": "monai.transforms.Orientation", "axcodes": codes},
        {"_target_": "monai.transforms.Rotate90", "spatial_axes": [0, 2]},
        {"_target_": "monai.transforms.ResizeWithPadOrCrop", "spatial_size": [14, 15, 17]},
    ]
    found = placed(image, turned.to_bytes(), *components, axes=axes)
    expected = Preprocessing(components, axes)(image.pixels, image.affine)  # type: ignore[arg-type]
    np.testing.assert_array_equal(found, expected.image[0] > 0.5)
    assert found.sum() == MASK.sum()


@pytest.mark.parametrize(
    ("affine", "sides"),
    [
        (AFFINE @ np.diag([0.5, 0.5, 0.5, 1]), (24, 32, 16)),
        (AFFINE @ np.diag([1.7, 0.9, 1.3, 1]), (9, 20, 7)),
        (TURN @ AFFINE @ np.diag([0.7, 0.7, 0.4, 1]), (20, 24, 22)),
        (AFFINE @ nibabel.affines.from_matvec(np.eye(3), [4, -3, 2]), SIDES),
    ],
    ids=["finer", "other spacing", "oblique", "shifted"],
)
def test_another_grid_is_resampled_as_nibabel_does(affine: NDArray[np.float64], sides: tuple[int, ...]) -> None:
    image = read([image_of(affine, sides)], 3)
    oracle = resample_from_to(nibabel.Nifti1Image(MASK, AFFINE), (sides, affine), order=0, mode="constant")
    found, expected = placed(image, nifti(MASK, AFFINE)), np.asarray(oracle.dataobj).T
    assert expected.any() and dice(found, expected) > 0.98


def test_grids_that_differ_by_rounding_are_the_same() -> None:
    rounded = AFFINE + 2e-5 * np.random.default_rng(0).normal(size=(4, 4)) * [[1], [1], [1], [0]]
    components = [{"_target_": "monai.transforms.Resize", "spatial_size": [4, 8, 6]}]  # half of each side: ties
    image = read([image_of(AFFINE)], 3)
    own = placed(image, nifti(MASK, AFFINE), *components)
    np.testing.assert_array_equal(placed(image, nifti(MASK, rounded), *components), own)


@pytest.mark.parametrize("reverse", [False, True])
def test_a_nifti_mask_lies_right_on_a_dicom_series(reverse: bool) -> None:
    to_ras = np.array([[0, 0, -1.5, 40], [0, -2.0, 0, 55], [3.0, 0, 0, -30], [0, 0, 0, 1]])
    drawn_volume = np.zeros((6, 10, 12), bool)
    drawn_volume[1:3, 2:5, 6:11] = True
    parts = list(dicom_slices(Phantom(drawn_volume.astype(np.float32), drawn_volume, to_ras), "a"))
    image = read(parts[::-1] if reverse else parts, 3)
    # The oracle: places of the lit pixels in the patient by pydicom's own tags, looked up in the NIfTI.
    affine = np.diag([-1.5, 2.0, 3.0, 1.0])
    affine[:3, 3] = (to_ras @ [0, 9, 0, 1])[:3]
    mask = np.zeros((12, 10, 6), np.uint8)
    for part in map(pydicom.dcmread, map(BytesIO, parts)):
        for row, column in np.argwhere(part.pixel_array):
            along, down = np.reshape(part.ImageOrientationPatient, (2, 3))
            lps = part.ImagePositionPatient + along * column * part.PixelSpacing[1] + down * row * part.PixelSpacing[0]
            index = np.linalg.inv(affine) @ [-lps[0], -lps[1], lps[2], 1]
            mask[tuple(np.rint(index[:3]).astype(int))] = 1
    np.testing.assert_array_equal(placed(image, nifti(mask, affine)), image.pixels[0] > 0)
    for number, part in enumerate(parts):  # a slice alone, with the mask of the whole volume
        np.testing.assert_array_equal(placed(read([part], 2), nifti(mask, affine)), drawn_volume[number])


def test_a_slice_of_the_volume_may_hold_nothing_of_the_finding() -> None:
    plane = image_of(AFFINE @ nibabel.affines.from_matvec(np.eye(3), [0, 0, 7]), (12, 16, 1))
    found = placed(read([plane], 2), nifti(MASK, AFFINE))
    assert found.shape == (16, 12) and not found.any()


@pytest.mark.parametrize(
    ("shift", "message"),
    [
        ((50, 67, 33), r"its mask lies 173 mm from the image, .*they do not meet"),
        ((-11, 0, 0), "all that is drawn in its mask lies outside of the image"),
    ],
)
def test_a_mask_that_lies_elsewhere_is_refused(shift: tuple[int, int, int], message: str) -> None:
    moved = AFFINE @ nibabel.affines.from_matvec(np.eye(3), shift)
    mask = MASK.copy()
    mask[11] = 0
    with pytest.raises(Unreadable, match=message):
        placed(read([image_of(AFFINE)], 3), nifti(mask, moved))


def test_an_empty_mask_that_lies_elsewhere_is_refused_as_well() -> None:
    moved = AFFINE @ nibabel.affines.from_matvec(np.eye(3), [500, 0, 0])
    with pytest.raises(Unreadable, match="1000 mm"):
        placed(read([image_of(AFFINE)], 3), nifti(0 * MASK, moved))
    assert not placed(read([image_of(AFFINE)], 3), nifti(0 * MASK, AFFINE)).any()


def test_of_a_mask_that_lies_partly_outside_the_rest_is_kept() -> None:
    moved = AFFINE @ nibabel.affines.from_matvec(np.eye(3), [-4, 0, 0])
    expected = np.zeros_like(MASK)
    expected[:-4] = MASK[4:]
    np.testing.assert_array_equal(placed(read([image_of(AFFINE)], 3), nifti(MASK, moved)), expected.T > 0)


def test_a_crop_without_the_finding_leaves_an_empty_mask() -> None:
    crop = {"_target_": "monai.transforms.SpatialCrop", "roi_start": [7, 0, 0], "roi_end": [8, 16, 12]}
    assert not placed(read([image_of(AFFINE)], 3), nifti(MASK, AFFINE), crop).any()


def test_a_singular_affine_of_a_mask_is_a_reason() -> None:
    image = read([image_of(AFFINE)], 3)
    mask = Decoded(MASK.T[None].astype(np.float32), np.diag([0.0, 1, 1, 1]))
    with pytest.raises(Unreadable, match="affine of its mask is singular"):
        on_grid(MASK.T > 0, mask, image, np.eye(4), MASK.T.shape)


def png(array: NDArray[np.uint8]) -> bytes:
    sink = BytesIO()
    Image.fromarray(array).save(sink, "PNG")
    return sink.getvalue()


def test_without_geometry_the_shapes_have_to_agree() -> None:
    plane, flat = MASK[:, :, 1].T, np.zeros((16, 12), np.uint8)
    located, loose = read([nifti(plane.T, AFFINE)], 2), read([png(flat)], 2)
    for image, mask in ((located, png(plane)), (loose, nifti(plane.T, AFFINE)), (loose, png(plane))):
        np.testing.assert_array_equal(placed(image, mask), plane > 0)
        with pytest.raises(Unreadable, match=r"has the shape \(15, 12\), the image \(16, 12\), and one of them has no"):
            placed(image, png(plane[1:]))
    assert lacks_geometry(read_mask(png(plane), 2), located)
    assert lacks_geometry(read_mask(nifti(plane.T, AFFINE), 2), loose)
    assert not lacks_geometry(read_mask(png(plane), 2), loose)
    assert not lacks_geometry(read_mask(nifti(plane.T, AFFINE), 2), located)
