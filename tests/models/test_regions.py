"""Regions on the grid of an image, and what is summed over them, against plain loops."""

import numpy as np
import pytest

from models.grids import nearest
from models.outputs import Axes, Frame
from models.regions import Atlas, relevance_by_region, towards_right, volume_by_region

ATLAS = Atlas(
    np.random.default_rng(3).integers(0, 4, (7, 9, 8)).astype(np.int32),
    np.array([[0, 0.2, 3, -11], [0, 2, 0, -8], [4, 0, 0, -13], [0, 0, 0, 1.0]]),
)
PLACES = {"z": (0.3, 0.1, 2.7), "y": (0.2, 1.9, 0), "x": (-2.3, 0.1, 0)}
"""mm in RAS by step along each axis of an image."""


@pytest.mark.parametrize("axes", ["zyx", "monai"])
@pytest.mark.parametrize("grid", [(5, 6), (4, 5, 6)])
def test_regions_are_looked_up_where_each_voxel_lies(grid: tuple[int, ...], axes: Axes) -> None:
    frame = Frame(("a",), ("first",), ("one",), ("grey",), grid, "softmax", axes=axes)
    affine = np.eye(4)
    affine[:3, :3] = np.array([PLACES[axis] for axis in frame.voxel[:3]]).T
    affine[:3, 3] = (9, -4, -8)
    found, right = ATLAS.on(affine, grid), towards_right(affine, grid)
    assert found is not None and found.shape == grid
    for index in np.ndindex(*grid):
        place = np.array([9.0, -4, -8])
        for axis, step in zip(frame.space, index, strict=True):
            place += step * np.array(PLACES[axis])
        there = np.floor((np.linalg.inv(ATLAS.affine) @ [*place, 1])[:3] + 0.5).astype(int)
        is_inside = ((there >= 0) & (there < ATLAS.regions.shape)).all()
        assert found[index] == (ATLAS.regions[tuple(there)] if is_inside else 0)
        assert np.isclose(right[index], place[0])
    assert 0 < (found > 0).mean() < 1


def test_an_atlas_that_does_not_reach_a_grid_has_nothing_to_say() -> None:
    far = ATLAS.affine.copy()
    far[0, 3] += 300
    assert ATLAS.on(far, (7, 9, 8)) is None and np.isclose(ATLAS.distance(far, (7, 9, 8)), 300)
    empty = Atlas(np.zeros_like(ATLAS.regions), ATLAS.affine)
    found = empty.on(ATLAS.affine, (7, 9, 8))
    assert found is not None and not found.any()


def test_large_labels_are_kept_as_they_are() -> None:
    labels = np.array([[[0, 14175, 2**24 - 1]]], np.int32)
    assert np.array_equal(nearest(labels, np.eye(4), (1, 1, 3)), labels)


def test_relevance_is_that_of_a_plain_loop() -> None:
    generator = np.random.default_rng(0)
    regions = generator.integers(0, 3, (3, 4, 6)).astype(np.int32)  # none is 3
    right = np.broadcast_to(np.array([-5, -3, 0, 1e-5, 2, 4.0]), regions.shape)
    maps = generator.normal(size=(4, *regions.shape)).astype(np.float32)
    maps[1] = 0  # blank
    maps[2, 0, 0, 0] = np.inf
    maps[3, regions > 0] = 0
    found = relevance_by_region(maps, regions, right, 3)
    magnitude = np.abs(maps[0].astype(float))
    for number in (1, 2):
        own = regions == number
        np.testing.assert_allclose(found.sum[0, number - 1], maps[0][own].astype(float).sum())
        np.testing.assert_allclose(found.mean[0, number - 1], maps[0][own].astype(float).mean())
        np.testing.assert_allclose(found.share[0, number - 1], magnitude[own].sum() / magnitude.sum())
    left, on_right = magnitude[..., :2][regions[..., :2] > 0].sum(), magnitude[..., 4:][regions[..., 4:] > 0].sum()
    np.testing.assert_allclose(found.laterality[0], (left - on_right) / (left + on_right))
    np.testing.assert_allclose(found.outside[0], magnitude[regions == 0].sum() / magnitude.sum())
    assert all(np.isnan(values[..., 2]).all() for values in (found.sum, found.mean, found.share))
    assert (found.sum[1, :2] == 0).all() and np.isnan(found.share[1]).all() and np.isnan(found.outside[1])
    assert all(np.isnan(values[2]).all() for values in found)
    assert found.outside[3] == 1 and np.isnan(found.laterality[3])
    np.testing.assert_allclose(volume_by_region(regions, 3), [(regions == number).mean() for number in (1, 2, 3)])
