"""A slide as it is read: its levels, each in tiles, of which only those are decoded that are asked for."""

from abc import ABC, abstractmethod
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tasks.cohort.reading import Unreadable

WHITE = 255

_LONGEST_SIDE = 2**21
_LONGEST_TILE = 2**12
_MOST_LEVELS = 64
_MOST_OBLONG = 0.02
"""By how much, as a share, the sides of a pixel may differ."""


class Level(NamedTuple):
    """One resolution of a slide: its size, and that of the tiles that it is stored in, in pixels."""

    height: int
    width: int
    tile_height: int
    tile_width: int


def _alike(finest: Level, level: Level) -> bool:
    """Tell whether a level has the proportions of the finest one, up to the rounding of its sides."""
    scale = max(finest.height, finest.width) / max(level.height, level.width)
    sides = zip(finest[:2], level[:2], strict=True)
    return all(abs(side / scale - own) <= 2 + 0.02 * own for side, own in sides)


def side_of_pixels(width: float | None, height: float | None) -> float | None:
    """Tell the side of a pixel in microns; None if its width is not known.

    Raises
    ------
    Unreadable
        If pixels are not square.
    """
    if width and height and not abs(height / width - 1) <= _MOST_OBLONG:
        raise Unreadable(
            f"pixels of {height:.4g} x {width:.4g} microns, and tiles are read in square ones: resample the slide"
        )
    return width


class Slide(ABC):
    """A slide in RGB of 8 bits. Labels and overviews, which may show a patient's name, are never read.

    Parameters
    ----------
    levels
        The finest first.
    microns_per_pixel
        That of the finest level; None if the file does not say.

    Raises
    ------
    Unreadable
        If the levels are none that a slide can have.
    """

    def __init__(self, levels: tuple[Level, ...], microns_per_pixel: float | None) -> None:
        if not 1 <= len(levels) <= _MOST_LEVELS:
            raise Unreadable(f"a slide of {len(levels)} levels: 1 to {_MOST_LEVELS} are read")
        for level in levels:
            if not all(1 <= side <= _LONGEST_SIDE for side in level[:2]):
                raise Unreadable(f"a level of {level.height} x {level.width} pixels: sides of up to 2^21 are read")
            if not all(1 <= side <= _LONGEST_TILE for side in level[2:]):
                raise Unreadable(
                    f"stored in pieces of {level.tile_height} x {level.tile_width} pixels: a slide is read in tiles of "
                    f"at most {_LONGEST_TILE} x {_LONGEST_TILE}; store it in smaller ones"
                )
            if not _alike(levels[0], level):
                raise Unreadable(
                    f"levels of {levels[0].height} x {levels[0].width} and {level.height} x {level.width} pixels are "
                    "no pyramid of one picture"
                )
        self.levels = levels
        usable = microns_per_pixel is not None and np.isfinite(microns_per_pixel) and microns_per_pixel > 0
        self.microns_per_pixel = microns_per_pixel if usable else None

    def downsample(self, level: int) -> float:
        """Pixels of the finest level along one pixel of this level."""
        finest, this = self.levels[0], self.levels[level]
        return max(finest.height, finest.width) / max(this.height, this.width)

    def region(self, level: int, top: int, left: int, height: int, width: int) -> NDArray[np.uint8]:
        """Decode ``(height, width, 3)`` of a level; white beyond its edges."""
        of = self.levels[level]
        found = np.full((height, width, 3), WHITE, np.uint8)
        bottom, right = min(top + height, of.height), min(left + width, of.width)
        rows = range(top // of.tile_height, -(-bottom // of.tile_height))
        columns = range(left // of.tile_width, -(-right // of.tile_width))
        for row, column in product(rows, columns):
            tile = self._tile(level, row, column)
            y, x = row * of.tile_height, column * of.tile_width
            first, last = max(top, y), min(bottom, y + len(tile))
            begin, end = max(left, x), min(right, x + tile.shape[1])
            found[first - top : last - top, begin - left : end - left] = tile[first - y : last - y, begin - x : end - x]
        return found

    @abstractmethod
    def _tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        """Decode one stored tile, ``(y, x, 3)``, after its own size was checked."""
