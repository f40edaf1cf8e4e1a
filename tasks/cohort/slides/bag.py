"""The bag of a slide: the tiles that hold its tissue, in the order of rows, and where they lie."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tasks.cohort.reading import Unreadable
from tasks.cohort.slides.config import SlideConfig
from tasks.cohort.slides.slide import WHITE, Slide
from tasks.cohort.slides.tissue import Tissue, find_tissue, overview_of, share_of

_LEAST_TISSUE = 0.5
_MOST_CELLS = 2**24
_TOLERANCE = 0.01
"""Resolutions that differ by less are the same: scanners state 0.2527 for 0.25."""


class Bag(NamedTuple):
    """A slide as it is explained.

    Attributes
    ----------
    pixels
        ``(3, z, y, x)`` float32 in 0 to 255; tiles that fill up the bag are white.
    position
        ``(z, 2)`` int32: the tile's upper left corner (y, x) in pixels of the finest level; -1: fills up.
    tissue
        ``(z,)`` the tile's share of tissue; NaN: fills up.
    side
        Side of a tile in pixels of the finest level.
    size
        ``(2,)`` height and width of the finest level.
    microns_per_pixel
        Of the finest level; NaN where the slide does not say.
    overview
        ``(3, OVERVIEW, OVERVIEW)`` the whole slide.
    has_tissue
        Whether there is any; without, all tiles are white.
    """

    pixels: NDArray[np.float32]
    position: NDArray[np.int32]
    tissue: NDArray[np.float32]
    side: float
    size: NDArray[np.int32]
    microns_per_pixel: float
    overview: NDArray[np.uint8]
    has_tissue: bool


class Grid(NamedTuple):
    """The grid of tiles on a level: their side in its pixels, and how many there are along y and x."""

    level: int
    side: float
    rows: int
    columns: int

    def corner(self, row: int, column: int) -> tuple[int, int]:
        return round(row * self.side), round(column * self.side)


def make_bag(slide: Slide, config: SlideConfig) -> Bag:
    """Choose the tiles of a slide, and decode them.

    Tiles lie on a regular grid. Those of which half or more is tissue are candidates; where there is no such tile, all
    with any tissue. Of more candidates than the bag holds, an even spread in the order of rows is taken.

    Raises
    ------
    Unreadable
        If the slide does not have the resolution that is asked for, or a tile is damaged.
    """
    grid = _grid(slide, config)
    whole = find_tissue(slide, config)
    shares = _shares(slide, grid, whole)
    chosen = _spread(_candidates(shares), config.tiles)
    pixels = np.full((3, config.tiles, config.tile, config.tile), WHITE, np.float32)
    position = np.full((config.tiles, 2), -1, np.int32)
    tissue = np.full(config.tiles, np.nan, np.float32)
    scale = slide.downsample(grid.level)
    for number, (row, column) in enumerate(chosen):
        top, left = grid.corner(row, column)
        pixels[:, number] = np.moveaxis(_decoded(slide, grid, top, left, config.tile), -1, 0)
        position[number] = round(top * scale), round(left * scale)
        tissue[number] = shares[row, column]
    finest = slide.levels[0]
    return Bag(
        pixels,
        position,
        tissue,
        side=grid.side * scale,
        size=np.array([finest.height, finest.width], np.int32),
        microns_per_pixel=slide.microns_per_pixel or np.nan,
        overview=overview_of(whole.picture),
        has_tissue=bool(chosen),
    )


def _grid(slide: Slide, config: SlideConfig) -> Grid:
    """Find the level that tiles are read of: the coarsest that is no coarser than what is asked for."""
    if config.level is not None:
        if config.level >= len(slide.levels):
            raise Unreadable(
                f"the slide has {len(slide.levels)} levels, and cohort.slides.level is {config.level}: name a lower "
                "one, or cohort.slides.microns_per_pixel"
            )
        return _over(slide, config.level, float(config.tile))
    wanted, finest = config.microns_per_pixel, slide.microns_per_pixel
    assert wanted is not None
    if finest is None:
        raise Unreadable(
            "the slide does not say how large its pixels are: state cohort.slides.level instead of microns_per_pixel"
        )
    if finest > wanted * (1 + _TOLERANCE):
        raise Unreadable(
            f"the slide has {finest:.4g} microns a pixel at its finest, and cohort.slides.microns_per_pixel is "
            f"{wanted:g}: ask for a coarser one, or leave the slide out"
        )
    scales = [finest * slide.downsample(level) / wanted for level in range(len(slide.levels))]
    level = max(number for number, scale in enumerate(scales) if scale <= 1 + _TOLERANCE)
    is_same = abs(scales[level] - 1) <= _TOLERANCE
    return _over(slide, level, config.tile if is_same else config.tile / scales[level])


def _over(slide: Slide, level: int, side: float) -> Grid:
    of = slide.levels[level]
    rows, columns = int(np.ceil(of.height / side)), int(np.ceil(of.width / side))
    if rows * columns > _MOST_CELLS:
        raise Unreadable(
            f"a level of {of.height} x {of.width} pixels has {rows * columns} places for tiles of "
            f"{side:.0f}: ask for larger tiles, or a coarser resolution"
        )
    return Grid(level, side, rows, columns)


def _shares(slide: Slide, grid: Grid, whole: Tissue) -> NDArray[np.float64]:
    side = grid.side * slide.downsample(grid.level) / whole.scale
    tops, lefts = (np.round(np.arange(count + 1) * side).astype(np.intp) for count in (grid.rows, grid.columns))
    return share_of(whole.mask, tops, lefts)


def _candidates(shares: NDArray[np.float64]) -> list[tuple[int, int]]:
    enough = shares >= _LEAST_TISSUE
    rows, columns = np.nonzero(enough if enough.any() else shares > 0)
    return list(zip(rows.tolist(), columns.tolist(), strict=True))


def _spread(candidates: list[tuple[int, int]], count: int) -> list[tuple[int, int]]:
    if len(candidates) <= count:
        return candidates
    return [candidates[(2 * place + 1) * len(candidates) // (2 * count)] for place in range(count)]


def _decoded(slide: Slide, grid: Grid, top: int, left: int, tile: int) -> NDArray[np.uint8]:
    side = round(grid.side)
    pixels = slide.region(grid.level, top, left, side, side)
    if side == tile:
        return pixels
    return np.asarray(Image.fromarray(pixels).resize((tile, tile), Image.Resampling.BILINEAR))  # with antialiasing
