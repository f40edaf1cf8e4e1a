from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy import ndimage

from models.components import instantiate, locate
from models.grids import nearest
from models.preprocessing import NAMESPACES, Preprocessed, Preprocessing, TransformError, resample_mask

SHAPE = {2: (24, 30), 3: (16, 24, 30)}
CENTRE = {2: (14, 9), 3: (6, 14, 9)}
RADIUS = 4.0
OBLIQUE = np.array([[0.3, 0.1, -1.2, 40], [-0.4, -1.5, -0.1, 55], [2.0, -0.2, 0.2, -30], [0, 0, 0, 1]])
AXIAL = np.array([[0, 0, -1.2, 40], [0, -1.5, 0, 55], [2.0, 0, 0, -30], [0, 0, 0, 1]])
CORONAL = np.array([[0, 0, -1.2, 40], [2.0, 0, 0, 55], [0, -1.5, 0, -30], [0, 0, 0, 1]])


def component(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", **arguments}


def prepare(
    pixels: NDArray[np.float32], affine: NDArray[np.float64] | None, *components: dict[str, Any]
) -> Preprocessed:
    return Preprocessing(components)(pixels, affine)


def blob(dims: int) -> NDArray[np.float32]:
    """Draw a bright ellipsoid with a soft edge, off the middle in every axis."""
    stretch = (1.0, 1.3, 0.8)[-dims:]
    offsets = [(axis - c) / s for axis, c, s in zip(np.indices(SHAPE[dims]), CENTRE[dims], stretch, strict=True)]
    distance = np.sqrt(sum(offset**2 for offset in offsets))
    return np.clip(RADIUS + 0.5 - distance, 0, 1)[None].astype(np.float32)


def centre_of_mass(image: NDArray[np.float32]) -> NDArray[np.float64]:
    """Index (z, y, x, 1) of the first channel's centre of mass; z is 0 in a picture."""
    indices = np.indices(image.shape[1:], dtype=float)
    weights = image[0] / image[0].sum()
    found = [float((axis * weights).sum()) for axis in indices]
    return np.array([*([0.0] * (3 - len(found))), *found, 1.0])


def dice(one: NDArray[np.bool_], other: NDArray[np.bool_]) -> float:
    return 2 * float((one & other).sum()) / float(one.sum() + other.sum())


GEOMETRY = {
    "Resize": {d: [component("Resize", spatial_size=(12, 40, 21)[-d:])] for d in (2, 3)},
    "Resize longest": {d: [component("Resize", spatial_size=45, size_mode="longest")] for d in (2, 3)},
    "Flip all": {d: [component("Flip")] for d in (2, 3)},
    "Flip last": {d: [component("Flip", spatial_axis=d - 1)] for d in (2, 3)},
    "Rotate90": {d: [component("Rotate90", k=1, spatial_axes=[d - 2, d - 1])] for d in (2, 3)},
    "Rotate270": {d: [component("Rotate90", k=3, spatial_axes=[0, 1])] for d in (2, 3)},
    "ResizeWithPadOrCrop": {d: [component("ResizeWithPadOrCrop", spatial_size=(21, 21, 41)[-d:])] for d in (2, 3)},
    "CropForeground": {d: [component("CropForeground", margin=3)] for d in (2, 3)},
    "Spacing": {d: [component("Spacing", pixdim=(1.1, 0.9, 2.0)[-d:])] for d in (2, 3)},
    "Orientation": {2: [component("Orientation", axcodes="RA")], 3: [component("Orientation", axcodes="RAS")]},
    "all in turn": {
        d: [
            component("Orientation", axcodes="RAS"[:d]),
            component("Spacing", pixdim=[1.0] * d),
            component("Rotate90", spatial_axes=[0, 1]),
            component("Flip", spatial_axis=0),
            component("ResizeWithPadOrCrop", spatial_size=[44] * d),
            component("Resize", spatial_size=[33] * d),
        ]
        for d in (2, 3)
    },
}


@pytest.mark.parametrize(("dims", "affine"), [(2, AXIAL), (3, AXIAL), (3, OBLIQUE)], ids=["2d", "3d", "3d oblique"])
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_blob_stays_where_it_is_in_the_patient(name: str, dims: int, affine: NDArray[np.float64]) -> None:
    pixels = blob(dims)
    before = affine @ centre_of_mass(pixels)
    prepared = prepare(pixels, affine, *GEOMETRY[name][dims])
    after = centre_of_mass(prepared.network_input)
    np.testing.assert_allclose(prepared.affine @ after, before, atol=0.5)
    np.testing.assert_allclose(prepared.to_source @ after, centre_of_mass(pixels), atol=0.3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", GEOMETRY)
def test_a_mask_follows_its_blob(name: str, dims: int) -> None:
    pixels = blob(dims)
    prepared = prepare(pixels, AXIAL, *GEOMETRY[name][dims])
    mask = resample_mask(pixels[0] > 0.5, prepared.to_source, prepared.image.shape[1:])
    assert mask.dtype == bool
    assert dice(mask, prepared.image[0] > 0.5) > 0.8


@pytest.mark.parametrize("name", ["Resize", "Flip last", "Rotate90", "ResizeWithPadOrCrop"])
def test_a_coronal_picture_stays_in_its_plane(name: str) -> None:
    pixels = blob(2)
    prepared = prepare(pixels, CORONAL, *GEOMETRY[name][2])
    found = prepared.affine @ centre_of_mass(prepared.network_input)
    np.testing.assert_allclose(found, CORONAL @ centre_of_mass(pixels), atol=0.5)
    # A step across the picture is still two millimetres towards the front.
    np.testing.assert_allclose(np.abs(prepared.affine[:, 0]), [0, 2, 0, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("components", "index"),
    # The grid's index (3, 5) by hand, in a picture of 24 rows and 30 columns.
    [
        ([], (3, 5)),
        ([component("Flip", spatial_axis=0)], (20, 5)),
        ([component("Flip", spatial_axis=1)], (3, 24)),
        ([component("Rotate90")], (5, 26)),
        ([component("Resize", spatial_size=[12, 15])], (6.5, 10.5)),
        ([component("ResizeWithPadOrCrop", spatial_size=[20, 40])], (5, 0)),
    ],
    ids=["none", "flip y", "flip x", "rotate", "halve", "crop and pad"],
)
def test_a_grid_index_maps_to_the_source_index_worked_out_by_hand(
    components: list[dict[str, Any]], index: tuple[float, float]
) -> None:
    prepared = prepare(blob(2), None, *components)
    np.testing.assert_allclose(prepared.to_source @ [0, 3, 5, 1], [0, *index, 1], atol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_without_a_geometry_the_affine_is_nan_but_masks_still_follow(dims: int) -> None:
    pixels = blob(dims)
    prepared = prepare(pixels, None, *GEOMETRY["Resize"][dims], *GEOMETRY["Flip last"][dims])
    assert prepared.affine.shape == (4, 4) and np.isnan(prepared.affine).all()
    mask = resample_mask(pixels[0] > 0.5, prepared.to_source, prepared.image.shape[1:])
    assert dice(mask, prepared.image[0] > 0.5) > 0.8


@pytest.mark.parametrize("bad", [np.zeros((4, 4)), np.diag([1.0, 0, 1, 1]), np.full((4, 4), np.nan)])
def test_a_singular_affine_is_an_error_of_the_image(bad: NDArray[np.float64]) -> None:
    with pytest.raises(TransformError, match="the affine of the image is singular"):
        prepare(blob(3), bad, component("Spacing", pixdim=[1.0, 1.0, 1.0]))


def test_a_transform_that_changes_the_number_of_axes_is_named() -> None:
    with pytest.raises(TransformError, match=r"Spacing fails with|number of axes"):
        prepare(blob(3), AXIAL, component("SqueezeDim", dim=0), component("Spacing", pixdim=[1.0, 1.0]))


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("EnsureType", {"track_meta": False}),
        ("EnsureType", {"data_type": "numpy"}),
        ("ToTensor", {"track_meta": False}),
    ],
)
def test_a_transform_that_loses_the_affine_is_named(name: str, arguments: dict[str, Any]) -> None:
    with pytest.raises(TransformError, match=f"{name} leaves an image without its affine"):
        prepare(blob(3), AXIAL, component(name, **arguments), component("Flip", spatial_axis=0))


def test_without_a_geometry_a_pixel_is_a_millimetre() -> None:
    assert prepare(blob(2), None, component("Spacing", pixdim=[2.0, 1.0])).image.shape == (1, 12, 30)


def test_a_mask_that_is_enlarged_keeps_its_edge() -> None:
    prepared = prepare(blob(2), None, component("Resize", spatial_size=[48, 60]))
    assert resample_mask(np.ones(SHAPE[2], bool), prepared.to_source, (48, 60)).all()


def test_images_of_one_shape_have_geometries_of_their_own() -> None:
    one = Preprocessing([component("CropForeground", margin=1), component("NormalizeIntensity")])
    other = np.roll(blob(2), 5, axis=1)
    for pixels, affine in ((blob(2), AXIAL), (other, AXIAL), (other, CORONAL), (blob(2), AXIAL)):
        prepared = one(pixels, affine)
        found = prepared.affine @ centre_of_mass(prepared.image)
        np.testing.assert_allclose(found, affine @ centre_of_mass(pixels), atol=1e-4)
    with pytest.raises(TransformError, match="singular"):
        one(other, np.diag([1.0, 1, 0, 1]))


def test_without_transforms_nothing_changes() -> None:
    pixels = blob(3)
    prepared = prepare(pixels, OBLIQUE)
    np.testing.assert_array_equal(prepared.network_input, pixels)
    np.testing.assert_array_equal(prepared.image, pixels)
    np.testing.assert_allclose(prepared.affine, OBLIQUE, atol=1e-12)
    np.testing.assert_allclose(prepared.to_source, np.eye(4), atol=1e-9)


@pytest.mark.parametrize(
    ("intensity", "expected"),
    [
        (component("ShiftIntensity", offset=3.0), lambda image: image + 3),
        (component("ScaleIntensityRange", a_min=0, a_max=0.5, b_min=0, b_max=1), lambda image: 2 * image),
        (component("NormalizeIntensity"), lambda image: (image - image.mean()) / image.std()),
        (component("NormalizeIntensity", channel_wise=True), lambda image: (image - image.mean()) / image.std()),
        (
            component("NormalizeIntensity", nonzero=True),
            lambda image: np.where(image == 0, 0, (image - image[image != 0].mean()) / image[image != 0].std()),
        ),
    ],
    ids=["shift", "scale", "normalise", "normalise by channel", "normalise what is not zero"],
)
@pytest.mark.parametrize("flipped", [False, True])
def test_the_image_is_kept_as_it_was_before_the_last_intensity_transforms(
    intensity: dict[str, Any], expected: Any, flipped: bool
) -> None:
    pixels = blob(2)
    pristine = pixels.copy()
    geometry = [component("Flip", spatial_axis=0)] if flipped else []
    prepared = prepare(pixels, AXIAL, *geometry, intensity)
    seen = pristine[:, ::-1] if flipped else pristine
    np.testing.assert_array_equal(prepared.image, seen)
    np.testing.assert_allclose(prepared.network_input, expected(seen), atol=1e-5)
    np.testing.assert_array_equal(pixels, pristine)


@pytest.mark.parametrize(
    "intensity",
    [
        component("ScaleIntensity"),
        component("ScaleIntensityRangePercentiles", lower=1, upper=99, b_min=0, b_max=1),
        component("ClipIntensityPercentiles", lower=1, upper=99),
        component("ThresholdIntensity", threshold=0.5),
        component("AdjustContrast", gamma=2.0),
        component("StdShiftIntensity", factor=1.0),
        component("GaussianSmooth"),
        component("GaussianSharpen"),
        component("MedianSmooth"),
        component("HistogramNormalize"),
        component("GibbsNoise", alpha=0.5),
    ],
    ids=lambda intensity: str(intensity["_target_"]).rpartition(".")[2],
)
def test_intensity_transforms_give_what_they_give_alone(intensity: dict[str, Any]) -> None:
    pixels = blob(2)
    alone = instantiate(intensity, locate(intensity, NAMESPACES))(torch.from_numpy(pixels.copy()))
    np.testing.assert_array_equal(prepare(pixels, AXIAL, intensity).network_input, np.asarray(alone, np.float32))


def test_intensity_transforms_before_a_geometric_one_are_part_of_the_image() -> None:
    pixels = blob(2)
    pristine = pixels.copy()
    normalise, shift = component("NormalizeIntensity", channel_wise=True), component("ShiftIntensity", offset=3.0)
    prepared = prepare(pixels, AXIAL, normalise, component("Flip", spatial_axis=0), shift, shift)
    normal = (pristine - pristine.mean()) / pristine.std()
    np.testing.assert_allclose(prepared.image, normal[:, ::-1], atol=1e-5)
    np.testing.assert_allclose(prepared.network_input, normal[:, ::-1] + 6, atol=1e-5)
    np.testing.assert_array_equal(pixels, pristine)


def test_the_result_is_contiguous_float32_and_repeats() -> None:
    preprocessing = Preprocessing([component("Spacing", pixdim=[1.0, 1.0]), component("Rotate90")])
    first, second = preprocessing(blob(2), AXIAL), preprocessing(blob(2), AXIAL)
    assert first.network_input.dtype == first.image.dtype == np.float32
    assert first.network_input.flags.c_contiguous and first.affine.dtype == np.float64
    np.testing.assert_array_equal(first.network_input, second.network_input)


@pytest.mark.parametrize("moved", [0.0, 1e-5, -1e-5])
def test_a_mask_on_the_same_grid_is_the_mask_and_no_view_of_it(moved: float) -> None:
    mask = np.random.default_rng(0).integers(0, 3, SHAPE[3]).astype(np.uint8)
    to_mask = np.eye(4)
    to_mask[:3, 3] = moved
    found = nearest(mask, to_mask, SHAPE[3])
    np.testing.assert_array_equal(found, mask)
    assert not np.shares_memory(found, mask)


def test_a_mask_is_empty_outside_its_source() -> None:
    prepared = prepare(blob(2), None, component("ResizeWithPadOrCrop", spatial_size=[44, 50]))
    mask = resample_mask(np.ones(SHAPE[2], bool), prepared.to_source, (44, 50))
    assert mask.sum() == 24 * 30 and mask[10:34, 10:40].all()
    assert ndimage.label(mask)[1] == 1


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (component("RandFlip", prob=1.0), "RandFlip` is random; a cohort is prepared the same way"),
        (component("RandGaussianNoise"), "RandGaussianNoise` is random"),
        (component("SavitzkyGolaySmooth", window_length=5, order=1), "depend on memory left over"),
        (component("Resized", keys=["image"]), "Resized` is a dictionary transform; use monai.transforms.Resize$"),
        (component("FlipDict", keys=["image"]), "use monai.transforms.Flip$"),
        (component("RandFlipd", keys=["image"]), "dictionary"),
        (component("Transpose", indices=[0, 2, 1]), "Transpose` moves pixels but not the affine; use Orientation"),
        (component("GridDistortion", num_cells=3, distort_steps=[[1] * 4] * 2), "moves pixels but not the affine"),
        (component("Flip", spatial_axis=0, lazy=True), "Flip` with lazy: true puts off what it does"),
        (component("Spacing", pixdim=[2.0] * 3, recompute_affine=True), "with recompute_affine: true states another"),
        (component("LoadImage"), "LoadImage` reads or writes files"),
        (component("SaveImage"), "SaveImage` reads or writes files"),
        (component("Resizee", spatial_size=[8, 8]), "monai.transforms.Resizee` cannot be imported"),
        (component("spatial.arrays.Resize"), "monai.transforms.spatial.arrays.Resize` cannot be imported"),
        (component("Resize", size=[8, 8]), "Resize` with {'size': .*unexpected keyword argument 'size'"),
        (component("Resize"), "missing 1 required .*'spatial_size'"),
        (component("utils.allow_missing_keys_mode"), "is not a transform"),
        ({"_target_": "torch.nn.Conv2d"}, "torch.nn.Conv2d` is not allowed here: it must lie in monai.transforms"),
        ({"_target_": "monai.transformsx.Resize"}, "is not allowed here"),
        ({"_target_": "os.system", "command": "true"}, "os.system` is not allowed here"),
    ],
    ids=lambda value: value["_target_"] if isinstance(value, dict) else "",
)
def test_what_cannot_prepare_a_cohort_is_refused_by_name(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Preprocessing([named])
