"""The way back onto the source's grid, held against moved coordinates, nibabel, and MONAI's own inverses."""

from typing import Any

import nibabel
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from nibabel.processing import resample_from_to
from numpy.typing import NDArray

from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.outputs import Axes
from models.preprocessing import NAMESPACES, Preprocessed, Preprocessing
from tasks.cohort.config import CohortConfig
from tasks.export.native import _MOVES, Way, check_way_back
from tasks.storage.location import Location

RNG = np.random.default_rng(17)
SHAPE = {2: (24, 30), 3: (16, 24, 30)}
OBLIQUE = np.array([[0.3, 0.1, -1.2, 40], [-0.4, -1.5, -0.1, 55], [2.0, -0.2, 0.2, -30], [0, 0, 0, 1]])
AXIAL = np.array([[0, 0, -1.2, 40], [0, -1.5, 0, 55], [2.0, 0, 0, -30], [0, 0, 0, 1]])
PLACES = {"no geometry": None, "axial": AXIAL, "oblique": OBLIQUE}


def component(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", **arguments}


LINEAR = {2: "bilinear", 3: "trilinear"}
EXACT = {
    "none": lambda d: [],
    "Orientation": lambda d: [component("Orientation", axcodes="RAS"[:d])],
    "Orientation LPI": lambda d: [component("Orientation", axcodes="LPI"[:d])],
    "Flip": lambda d: [component("Flip", spatial_axis=0)],
    "Flip last": lambda d: [component("Flip", spatial_axis=d - 1)],
    "Rotate90": lambda d: [component("Rotate90", k=1, spatial_axes=[d - 2, d - 1])],
    "Rotate270": lambda d: [component("Rotate90", k=3, spatial_axes=[0, 1])],
    "Pad": lambda d: [component("Pad", to_pad=[(0, 0)] + [(2, 3)] * d)],
    "SpatialPad": lambda d: [component("SpatialPad", spatial_size=[40] * d)],
    "SpatialPad end": lambda d: [component("SpatialPad", spatial_size=[40] * d, method="end")],
    "BorderPad": lambda d: [component("BorderPad", spatial_border=[2, 3, 4][:d])],
    "DivisiblePad": lambda d: [component("DivisiblePad", k=16)],
    "SpatialCrop": lambda d: [component("SpatialCrop", roi_start=[2] * d, roi_end=[14] * d)],
    "CenterSpatialCrop": lambda d: [component("CenterSpatialCrop", roi_size=[11] * d)],
    "CenterScaleCrop": lambda d: [component("CenterScaleCrop", roi_scale=0.6)],
    "CropForeground": lambda d: [component("CropForeground", margin=1, channel_indices=[d + 1])],
    "CropForeground of 16": lambda d: [component("CropForeground", channel_indices=[d + 1], k_divisible=16)],
    "ResizeWithPadOrCrop": lambda d: [component("ResizeWithPadOrCrop", spatial_size=(21, 21, 41)[-d:])],
}
"""Transforms that move voxels and make up none, for pictures and volumes."""

RESAMPLED = {
    "Resize": lambda d: [component("Resize", spatial_size=(12, 40, 21)[-d:], mode=LINEAR[d])],
    "Resize aligned": lambda d: [
        component("Resize", spatial_size=(12, 40, 21)[-d:], mode=LINEAR[d], align_corners=True)
    ],
    "Resize longest": lambda d: [component("Resize", spatial_size=45, size_mode="longest", mode=LINEAR[d])],
    "Spacing": lambda d: [component("Spacing", pixdim=(1.1, 0.9, 2.0)[-d:])],
    "Spacing aligned": lambda d: [component("Spacing", pixdim=(1.1, 0.9, 2.0)[-d:], align_corners=True)],
    "SpatialResample": lambda d: [component("Spacing", pixdim=[1.3] * d), component("SpatialResample")],
    "Rotate": lambda d: [component("Rotate", angle=0.3 if d == 2 else [0.3, 0.1, -0.2])],
    "Rotate and grow": lambda d: [
        component("Rotate", angle=0.3 if d == 2 else [0.3, 0.1, -0.2], keep_size=False, align_corners=True)
    ],
    "Zoom": lambda d: [component("Zoom", zoom=1.3, mode=LINEAR[d])],
    "Zoom and shrink": lambda d: [component("Zoom", zoom=0.7, mode=LINEAR[d], keep_size=False)],
    "Affine": lambda d: [
        component("Affine", rotate_params=[0.3] if d == 2 else [0.3, 0.1, 0.2], scale_params=[1.2] * d,
                  translate_params=[2, 3, 1][:d], image_only=True, padding_mode="zeros")
    ],
    "all in turn": lambda d: [
        component("Orientation", axcodes="RAS"[:d]),
        component("Spacing", pixdim=[1.0] * d),
        component("Rotate90", spatial_axes=[0, 1]),
        component("Flip", spatial_axis=0),
        component("ResizeWithPadOrCrop", spatial_size=[40] * d),
        component("Resize", spatial_size=[33] * d, mode=LINEAR[d]),
    ],
}  # fmt: skip
"""What makes voxels up between others, linearly."""

ALL = EXACT | RESAMPLED
CASES = [
    pytest.param(name, dims, place, id=f"{name}, {dims}d, {place}")
    for name in ALL
    for dims, place in ((2, "no geometry"), (2, "axial"), (3, "oblique"))
]


def coordinates(dims: int) -> NDArray[np.float32]:
    """Make an image whose channels are its own indices, 1 everywhere, and a block that is the foreground."""
    shape = SHAPE[dims]
    block = np.zeros(shape, np.float32)
    block[tuple(slice(5 + axis, 12 + axis) for axis in range(dims))] = 1
    return np.stack([*np.indices(shape, np.float32), np.ones(shape, np.float32), block])


def moved(name: str, dims: int, place: str, axes: Axes = "zyx") -> tuple[Preprocessed, Way]:
    prepared = Preprocessing(ALL[name](dims), axes)(coordinates(dims), PLACES[place])
    return prepared, Way.back(prepared.to_source, prepared.image.shape[1:], SHAPE[dims])


def test_every_transform_that_is_let_through_is_tried_here() -> None:
    tried = {one["_target_"].rpartition(".")[2] for make in ALL.values() for one in make(3)}
    assert tried >= _MOVES


def from_inside(name: str, prepared: Preprocessed, dims: int) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Compute where each voxel of the grid comes from, ``(axis, *grid)``, and whether it is made of the source alone.

    Where voxels were made up, those near an edge are partly made of what lies beyond.
    """
    grid = prepared.image.shape[1:]
    indices = np.indices(grid).reshape(dims, -1)
    homogeneous = np.vstack([np.zeros((3 - dims, indices.shape[1])), indices, np.ones((1, indices.shape[1]))])
    places = (prepared.to_source @ homogeneous)[3 - dims : 3]
    margin = 1 if name in RESAMPLED else 0
    ends = np.array(SHAPE[dims])[:, None] - 1 - margin
    inside = ((places >= margin) & (places <= ends)).all(0) & (prepared.image[dims].ravel() > 0.9999)
    return places.reshape(dims, *grid), inside.reshape(grid)


@pytest.mark.parametrize(("name", "dims", "place"), CASES)
@pytest.mark.parametrize("axes", ["zyx", "monai"])
def test_the_affine_of_a_transform_says_where_voxels_come_from(name: str, dims: int, place: str, axes: Axes) -> None:
    prepared, _ = moved(name, dims, place, axes)
    expected, inside = from_inside(name, prepared, dims)
    assert inside.mean() > 0.1
    np.testing.assert_allclose(prepared.image[:dims][:, inside], expected[:, inside], atol=1e-3)


@pytest.mark.parametrize(("name", "dims", "place"), CASES)
def test_coordinates_come_back_to_where_they_were(name: str, dims: int, place: str) -> None:
    prepared, way = moved(name, dims, place)
    _, inside = from_inside(name, prepared, dims)
    index = np.vstack([np.zeros((3 - dims, way.seen.size)), np.indices(SHAPE[dims]).reshape(dims, -1)])
    there = (way.to_grid @ np.vstack([index, np.ones((1, way.seen.size))]))[3 - dims : 3]
    between = ((there >= 0) & (there <= np.array(way.grid)[:, None] - 1)).all(0).reshape(SHAPE[dims])
    whole = between & (way.map(inside.astype(np.float32)) > 0.9999)
    assert whole[way.seen].mean() > 0.3
    for axis, index in enumerate(np.indices(SHAPE[dims])):
        np.testing.assert_allclose(way.map(prepared.image[axis])[whole], index[whole], atol=2e-3)


@pytest.mark.filterwarnings("ignore:axcodes")
@pytest.mark.parametrize("axes", ["zyx", "monai"])
@pytest.mark.parametrize(("name", "dims", "place"), [case for case in CASES if case.values[0] in EXACT])
def test_where_nothing_was_resampled_every_bit_comes_back_as_by_monai(
    name: str, dims: int, place: str, axes: Axes
) -> None:
    _, way = moved(name, dims, place, axes)
    assert way.is_exact
    values = RNG.normal(size=way.grid).astype(np.float32)
    found = way.map(values)
    # MONAI's own inverse, of the transforms as they were applied.
    components = EXACT[name](dims)
    pixels, order = coordinates(dims), [*range(3 - dims, 3), *range(3 - dims), 3]
    if axes == "monai":
        pixels, order = pixels.transpose(0, *range(dims, 0, -1)), [*range(2, 2 - dims, -1), *range(3 - dims), 3]
    source = PLACES[place]
    affine = np.eye(4) if source is None else source[:, order]
    there: Any = MetaTensor(torch.from_numpy(pixels.copy()), affine=torch.from_numpy(affine))
    transforms = [instantiate(one, locate(one, NAMESPACES)) for one in components]
    for transform in transforms:
        there = transform(there)
    back: Any = MetaTensor(torch.from_numpy(values[None].copy()), meta=there.meta)
    back.applied_operations = there.applied_operations
    for transform in reversed(transforms):
        back = transform.inverse(back)
    theirs = back.numpy()[0] if axes == "zyx" else back.numpy()[0].T
    np.testing.assert_array_equal(found[way.seen], theirs[way.seen])
    assert not found[~way.seen].any()


@pytest.mark.parametrize(("name", "dims", "place"), [case for case in CASES if case.values[0] in RESAMPLED])
def test_a_map_is_interpolated_as_nibabel_does(name: str, dims: int, place: str) -> None:
    prepared, way = moved(name, dims, place)
    assert not way.is_exact
    values = RNG.normal(size=way.grid).astype(np.float32)
    as_volume = (*[1] * (3 - dims), *way.grid)
    source = np.eye(4) if PLACES[place] is None else PLACES[place]
    theirs = resample_from_to(
        nibabel.Nifti1Image(values.reshape(as_volume), source @ prepared.to_source),
        ((*[1] * (3 - dims), *SHAPE[dims]), source),
        order=1,
        mode="nearest",
    )
    expected = np.asarray(theirs.dataobj).reshape(SHAPE[dims])
    np.testing.assert_allclose(way.map(values)[way.seen], expected[way.seen], atol=1e-4)


def test_outside_of_what_the_network_was_shown_is_zero_and_a_sign_is_kept() -> None:
    _, way = moved("SpatialCrop", 2, "axial")
    found = way.map(np.full(way.grid, -3.0, np.float32))
    expected = np.zeros(SHAPE[2], np.float32)
    expected[2:14, 2:14] = -3
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(way.seen, expected != 0)
    np.testing.assert_array_equal(way.labels(np.ones(way.grid, np.uint8)), expected != 0)


def test_a_mask_comes_back_by_nearest_neighbour() -> None:
    _, way = moved("Resize", 3, "oblique")
    there = RNG.random(way.grid) > 0.5
    found = way.labels(there.view(np.uint8))
    index = np.stack(np.meshgrid(*map(np.arange, SHAPE[3]), [1], indexing="ij"))[..., 0].reshape(4, -1)
    place = np.rint(way.to_grid @ index + 1e-6)[:3].astype(int).clip(0, np.array(way.grid)[:, None] - 1)
    np.testing.assert_array_equal(found.ravel(), there[tuple(place)])


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (component("GridPatch", patch_size=[8, 8]), "GridPatch: maps cannot be brought back through it: nothing shows"),
        (component("SqueezeDim", dim=1), "SqueezeDim: .* nothing shows where"),
        (component("ResampleToMatch"), "ResampleToMatch: .* nothing shows where"),
        (component("Affine", scale_params=[1.2, 1.2], normalized=True), "Affine: .* with normalized: True, its affine"),
        (component("Affine", align_corners=True), "Affine: .* with align_corners: True, its affine is that of voxels"),
        (component("Resize", spatial_size=[9, 9], mode="nearest"), "Resize: .* with mode: nearest, it takes the voxel"),
        (component("Zoom", zoom=2.0, mode="nearest"), "Zoom: .* with mode: nearest, it takes the voxel at the corner"),
    ],
    ids=lambda value: value["_target_"] if isinstance(value, dict) else "",
)
def test_a_transform_that_maps_cannot_come_back_through_is_refused_by_name(named: dict[str, Any], message: str) -> None:
    cohort = CohortConfig(source=Location(url="somewhere"), preprocessing=(component("Flip"), named))
    with pytest.raises(ConfigurationError, match=message):
        check_way_back(cohort)


@pytest.mark.parametrize("name", ["Resize", "Zoom"])
def test_the_refusal_of_nearest_is_deserved(name: str) -> None:
    arguments = {"spatial_size": [37, 41]} if name == "Resize" else {"zoom": 1.4, "keep_size": False}
    prepared = Preprocessing([component(name, mode="nearest", **arguments)])(coordinates(2), None)
    indices = np.indices(prepared.image.shape[1:]).reshape(2, -1)
    ones = np.ones((1, indices.shape[1]))
    expected = (prepared.to_source @ np.vstack([0 * ones, indices, ones]))[1:3]
    assert np.abs(prepared.image[:2].reshape(2, -1) - expected).max() > 0.6  # nearest would be half a voxel at most


def test_slides_are_refused() -> None:
    slides = {"tile": 32, "tiles": 4, "level": 0}
    cohort = CohortConfig.model_validate({"source": {"url": "somewhere"}, "slides": slides})
    with pytest.raises(ConfigurationError, match="slides: the tiles of a slide have no one grid"):
        check_way_back(cohort)


def test_transforms_of_values_alone_are_let_through() -> None:
    named = [
        component("ScaleIntensity"),
        component("EnsureType"),
        {"_target_": "models.transforms.MeanOverChannels"},
    ]
    check_way_back(CohortConfig(source=Location(url="somewhere"), preprocessing=tuple(named)))
