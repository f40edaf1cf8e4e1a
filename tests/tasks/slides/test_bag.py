"""The bag of a slide: which tiles are taken, where they lie, at which resolution."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage

from models.errors import ConfigurationError
from tasks.cohort.reading import Unreadable
from tasks.cohort.slides.bag import Bag, make_bag
from tasks.cohort.slides.config import SlideConfig
from tasks.cohort.slides.opening import opened
from tasks.cohort.slides.slide import WHITE
from tasks.cohort.slides.tissue import Tissue, find_tissue, overview_of, share_of
from tests.tasks.slides.made import TISSUE, file_of, glass, levels_of, with_tissue, write_dicom, write_tiff

LEVEL_0: dict[str, Any] = {"level": 0, "tile": 32, "tiles": 8}


def bag_of(path: Path, **config: Any) -> Bag:
    with opened([file_of(path)]) as slide:
        return make_bag(slide, SlideConfig(**config))


def tissue_of(path: Path, tissue: Any) -> Tissue:
    with opened([file_of(path)]) as slide:
        return find_tissue(slide, SlideConfig(level=0, tissue=tissue))


def test_the_tiles_are_those_that_hold_the_tissue_in_the_order_of_rows(tmp_path: Path) -> None:
    pixels = with_tissue(64, 96, 64, 96)
    bag = bag_of(write_tiff(tmp_path / "a.tif", pixels), **LEVEL_0)
    corners = [[top, left] for top in (64, 96) for left in (96, 128, 160)]
    assert bag.position.tolist() == [*corners, [-1, -1], [-1, -1]]
    np.testing.assert_array_equal(bag.tissue, [1] * 6 + [np.nan] * 2)
    assert (bag.side, bag.size.tolist(), bag.microns_per_pixel) == (32, [256, 384], pytest.approx(0.5))
    for number, (top, left) in enumerate(corners):
        expected = np.moveaxis(pixels[top : top + 32, left : left + 32], -1, 0)
        np.testing.assert_array_equal(bag.pixels[:, number], expected)
    assert (bag.pixels[:, 6:] == WHITE).all()


def test_of_more_tiles_an_even_spread_is_taken(tmp_path: Path) -> None:
    bag = bag_of(write_tiff(tmp_path / "a.tif", with_tissue(0, 0, 256, 384)), level=0, tile=32, tiles=4, tissue="none")
    numbers = [12 * top // 32 + left // 32 for top, left in bag.position.tolist()]  # of 96
    assert numbers == [12, 36, 60, 84]


@pytest.mark.parametrize(("share", "kept"), [(0.6, [0.6]), (0.4, [0.4]), (None, [1.0])])
def test_tiles_of_less_tissue_than_half_are_taken_only_where_there_are_no_others(
    tmp_path: Path, share: float | None, kept: list[float]
) -> None:
    pixels = glass(256, 256)
    pixels[:32, :13] = TISSUE  # 0.4 of a tile
    if share == 0.6:
        pixels[:32, :19] = TISSUE
    if share is None:
        pixels[64:96, 64:96] = TISSUE
    bag = bag_of(write_tiff(tmp_path / "a.tif", pixels), **LEVEL_0)
    np.testing.assert_allclose(bag.tissue[np.isfinite(bag.tissue)], kept, atol=0.02)


@pytest.mark.parametrize("microns", [0.5, 1.0, 2.0])
def test_tiles_are_read_at_the_resolution_that_is_asked_for(tmp_path: Path, microns: float) -> None:
    generator = np.random.default_rng(3)
    pixels = generator.integers(0, 255, (256, 384, 3), np.uint8)
    bag = bag_of(write_tiff(tmp_path / "a.tif", pixels), microns_per_pixel=microns, tile=32, tiles=8, tissue="none")
    factor = int(microns / 0.5)
    top, left = bag.position[0].tolist()
    if factor < 4:  # a level that is stored
        level = levels_of(pixels, 2)[factor // 2]
        expected = level[top // factor : top // factor + 32, left // factor : left // factor + 32]
    else:  # the coarsest one, made smaller
        half = Image.fromarray(levels_of(pixels, 2)[1][top // 2 : top // 2 + 64, left // 2 : left // 2 + 64])
        expected = np.asarray(half.resize((32, 32), Image.Resampling.BILINEAR))
    np.testing.assert_array_equal(bag.pixels[:, 0], np.moveaxis(expected, -1, 0))
    assert bag.side == 32 * factor


@pytest.mark.parametrize(
    ("made", "config", "reason"),
    [
        ({"microns": None}, {"microns_per_pixel": 0.5}, "does not say how large"),
        ({}, {"microns_per_pixel": 0.25}, "0.5 microns a pixel at its finest"),
        ({}, {"level": 2}, "has 2 levels"),
    ],
)
def test_a_slide_that_lacks_the_resolution_is_refused(
    tmp_path: Path, made: dict[str, Any], config: dict[str, Any], reason: str
) -> None:
    path = write_tiff(tmp_path / "a.tif", with_tissue(0, 0, 64, 64), **made)
    with pytest.raises(Unreadable, match=reason):
        bag_of(path, **config)


@pytest.mark.parametrize("config", [{}, {"level": 0, "microns_per_pixel": 0.5}, {"level": 0, "tissue": "hsv"}])
def test_a_configuration_without_one_resolution_or_of_another_tissue_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises((ConfigurationError, ValueError)):
        SlideConfig(**config)


@pytest.mark.parametrize("tissue", ["otsu", {"saturation": 0.3}])
def test_tissue_is_what_is_saturated_without_specks_and_holes(tmp_path: Path, tissue: Any) -> None:
    pixels = with_tissue(64, 96, 96, 128)
    pixels[100:104, 150:154] = 240  # a hole
    pixels[10:14, 10:14] = TISSUE  # a speck
    pixels[230:, :] = 2  # black, which a scanner fills up with
    pixels[230:, :, 2] = 1
    expected = np.zeros((256, 384), bool)
    expected[64:160, 96:224] = True
    np.testing.assert_array_equal(tissue_of(write_tiff(tmp_path / "a.tif", pixels), tissue).mask, expected)


def test_tissue_of_a_section_is_what_a_threshold_by_hand_finds(tmp_path: Path) -> None:
    from skimage.data import immunohistochemistry

    pixels = np.full((600, 700, 3), 236, np.uint8)
    pixels[40:552, 90:602] = immunohistochemistry()
    found = tissue_of(write_tiff(tmp_path / "a.tif", pixels), {"saturation": 0.15}).mask
    high, low = pixels.max(-1).astype(float), pixels.min(-1).astype(float)
    by_hand = (high - low) / high > 0.15
    labelled, count = ndimage.label(by_hand)
    sizes = ndimage.sum_labels(by_hand, labelled, np.arange(count + 1))
    assert not (found & ~by_hand)[sizes[labelled] > 64].any() and found[by_hand & (sizes[labelled] > 64)].all()
    assert 0.1 < found.mean() < 0.5


@pytest.mark.parametrize("noise", [0, 4])
def test_glass_alone_holds_no_tissue(tmp_path: Path, noise: int) -> None:
    pixels = glass(256, 384) - np.random.default_rng(1).integers(0, noise + 1, (256, 384, 3)).astype(np.uint8)
    bag = bag_of(write_tiff(tmp_path / "a.tif", pixels), **LEVEL_0)
    assert not bag.has_tissue and (bag.pixels == WHITE).all() and (bag.position == -1).all()


def test_shares_of_cells_are_means() -> None:
    mask = np.random.default_rng(0).random((40, 50)) > 0.5
    tops, lefts = np.array([0, 10, 25, 40, 44]), np.array([0, 20, 50])
    shares = share_of(mask, tops, lefts)
    for row, column in np.ndindex(3, 2):
        cell = mask[tops[row] : tops[row + 1], lefts[column] : lefts[column + 1]]
        assert shares[row, column] == pytest.approx(cell.mean())


def test_a_slide_without_a_pyramid_is_looked_at_in_strips(tmp_path: Path) -> None:
    pixels = with_tissue(1000, 600, 800, 700, of=(3000, 2100))
    path = write_tiff(tmp_path / "a.tif", pixels, levels=1)
    with opened([file_of(path)]) as slide:
        whole = find_tissue(slide, SlideConfig(level=0))
    assert (whole.scale, whole.mask.shape) == (2, (1500, 1050))
    expected = np.zeros((1500, 1050), bool)
    expected[500:900, 300:650] = True
    np.testing.assert_array_equal(whole.mask, expected)
    assert overview_of(whole.picture).shape == (3, 512, 512)


def test_tiff_and_dicom_make_the_same_bag(tmp_path: Path) -> None:
    pixels = with_tissue(64, 96, 64, 96)
    of_tiff = bag_of(write_tiff(tmp_path / "a.tif", pixels), **LEVEL_0)
    with opened([file_of(path) for path in write_dicom(tmp_path / "series", pixels)]) as slide:
        of_dicom = make_bag(slide, SlideConfig(**LEVEL_0))
    for one, other in zip(of_tiff, of_dicom, strict=True):
        np.testing.assert_allclose(one, other)
