"""Tissue: where a slide is more saturated than the glass around it, on a picture of the whole slide."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from skimage.color import rgb2hsv
from skimage.filters import threshold_otsu
from skimage.morphology import remove_small_holes, remove_small_objects

from tasks.cohort.reading import Unreadable
from tasks.cohort.slides.config import Saturation, SlideConfig
from tasks.cohort.slides.slide import WHITE, Slide

OVERVIEW = 512
"""Longest side of the overview that is stored."""

SLIDE_BYTES = 512 * 2**20
"""Memory that looking at a slide as a whole takes at most."""

_LONGEST = 1024
_LARGEST_LEVEL = 2**15
_STRIP = 2**24
_LEAST_SATURATION = 0.05
"""Otsu's threshold parts any picture in two, glass alone, too: what is less saturated is glass whatever the rest is."""
_LEAST_VALUE = 0.1
"""In black, which some scanners fill up with, saturation is noise."""
_SPECK = 64


class Tissue(NamedTuple):
    """A slide as a whole.

    Attributes
    ----------
    picture
        ``(y, x, 3)``, with a longest side of less than 2048 pixels.
    mask
        ``(y, x)`` where there is tissue.
    scale
        How many pixels of the finest level lie along one of these.
    """

    picture: NDArray[np.uint8]
    mask: NDArray[np.bool_]
    scale: float


def find_tissue(slide: Slide, config: SlideConfig) -> Tissue:
    """Find the tissue of a slide: specks and holes of up to 64 pixels of the picture are closed.

    Raises
    ------
    Unreadable
        If even the coarsest level is too large to be looked at as a whole.
    """
    picture, scale = _picture(slide)
    if config.tissue == "none":
        return Tissue(picture, np.ones(picture.shape[:2], bool), scale)
    _, saturation, value = np.moveaxis(rgb2hsv(picture), -1, 0)
    mask = (saturation > _threshold(saturation, config)) & (value >= _LEAST_VALUE)
    mask = remove_small_objects(mask, max_size=_SPECK)
    return Tissue(picture, remove_small_holes(mask, max_size=_SPECK), scale)


def share_of(mask: NDArray[np.bool_], tops: NDArray[np.intp], lefts: NDArray[np.intp]) -> NDArray[np.float64]:
    """Compute the share of True in each cell of a grid.

    Parameters
    ----------
    tops, lefts
        Edges of the cells along y and x, one more than there are cells; each cell has a pixel at least.

    Returns
    -------
    ndarray
        ``(row, column)`` in [0, 1].
    """
    sums = np.pad(mask.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))
    height, width = mask.shape
    top, left = np.minimum(tops[:-1], height - 1), np.minimum(lefts[:-1], width - 1)
    bottom = np.clip(tops[1:], top + 1, height)
    right = np.clip(lefts[1:], left + 1, width)
    inside = sums[bottom][:, right] - sums[top][:, right] - sums[bottom][:, left] + sums[top][:, left]
    shares: NDArray[np.float64] = inside / np.outer(bottom - top, right - left)
    return shares


def _threshold(saturation: NDArray[np.float64], config: SlideConfig) -> float:
    if isinstance(config.tissue, Saturation):
        return config.tissue.saturation
    return max(float(threshold_otsu(saturation)), _LEAST_SATURATION)


def _picture(slide: Slide) -> tuple[NDArray[np.uint8], float]:
    """Take the coarsest level that has the wanted size, made smaller by a whole factor, strip by strip."""
    sides = [max(level.height, level.width) for level in slide.levels]
    level = max((number for number, side in enumerate(sides) if side >= _LONGEST), default=0)
    of = slide.levels[level]
    if sides[level] > _LARGEST_LEVEL:
        raise Unreadable(
            f"the coarsest level has {of.height} x {of.width} pixels, and tissue is looked for on one of at most "
            f"{_LARGEST_LEVEL} x {_LARGEST_LEVEL}: store the slide as a pyramid"
        )
    factor = max(1, sides[level] // _LONGEST)
    width = -(-of.width // factor) * factor
    rows = factor * max(1, _STRIP // (width * factor))
    strips = []
    for top in range(0, of.height, rows):
        height = -(-min(rows, of.height - top) // factor) * factor
        strip = slide.region(level, top, 0, height, width)
        cells = strip.reshape(height // factor, factor, width // factor, factor, 3)
        strips.append(cells.mean((1, 3)).round().astype(np.uint8))
    return np.concatenate(strips), factor * slide.downsample(level)


def overview_of(picture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Make ``(3, OVERVIEW, OVERVIEW)`` of a picture: its longest side fills it, and white the rest."""
    from PIL import Image

    height, width = (max(1, round(OVERVIEW * side / max(picture.shape[:2]))) for side in picture.shape[:2])
    fitted = Image.fromarray(picture).resize((width, height), Image.Resampling.BOX)
    found = np.full((3, OVERVIEW, OVERVIEW), WHITE, np.uint8)
    found[:, :height, :width] = np.moveaxis(np.asarray(fitted), -1, 0)
    return found
