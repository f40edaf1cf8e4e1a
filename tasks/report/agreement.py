"""The agreement of explainers on a case: how much of what is strongest their maps share, against maps of other images.

Two maps of one image look alike for reasons that are not the image's: padding, the head's outline, a place that the
network always looks at. So what two explainers share on an image is compared with what they share when each explains
another image.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.targets import NO_CLASS

STRONGEST = 0.05
"""The share of places that count as the strongest of a map."""

LEVEL = 0.95
"""Explainers agree if they share more than they do on this share of the pairs of different images."""

ENOUGH = 19
"""The fewest other images by which a level of 95 % can be told."""

_OTHERS = 40
_PLACES = 2**16
_SEED = 20261126
_ROUNDING = 1e-5

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Pair:
    """Two explainers on one image.

    Attributes
    ----------
    shared
        The share of their strongest places that both have.
    beyond
        The share of the pairs of maps of different images that have less in common; NaN if those are too few.
    """

    one: str
    other: str
    shared: float
    beyond: float

    @property
    def agrees(self) -> bool:
        return self.beyond >= LEVEL


@dataclass(frozen=True)
class Others:
    """The strongest places of images that are compared with.

    Attributes
    ----------
    explainers
        Names along `weights`.
    subjects
        ``(image,)`` whose image each is.
    weights
        ``(image, explainer, place)``, as `strongest` makes them.
    on_border
        ``(image, explainer, side)`` of the evidence, what the tenth of the image along each side holds, 1 being as
        much as an even map has there.
    """

    explainers: tuple[str, ...]
    subjects: NDArray[np.str_]
    weights: Floats
    on_border: Floats

    def pairs(self, maps: Floats, subject: str) -> list[Pair]:
        """Compare the maps of one image, ``(explainer, *space)``, with each other and with those of other subjects."""
        own = strongest(_places(maps))
        shared = own @ own.T / _count(own.shape[1])
        apart = self.weights[self.subjects != subject]
        crossed = own @ apart.reshape(-1, own.shape[1]).T / _count(own.shape[1])
        crossed = crossed.reshape(len(own), *apart.shape[:2])  # (explainer here, other image, explainer there)
        found = []
        for one, other in combinations(range(len(own)), 2):
            if np.isnan(shared[one, other]):
                continue
            by_chance = np.stack([crossed[one, :, other], crossed[other, :, one]])
            by_chance = by_chance[:, np.isfinite(by_chance).all(0)]
            beyond = np.mean(by_chance < shared[one, other] - _ROUNDING) if by_chance.shape[1] >= ENOUGH else np.nan
            found.append(Pair(self.explainers[one], self.explainers[other], float(shared[one, other]), float(beyond)))
        return found


def draw_others(dataset: xr.Dataset, explainers: Sequence[str], subjects: Sequence[str]) -> Others | None:
    """Draw up to 40 images that have a target, with a fixed seed, and read their maps; None if there is none."""
    rows = np.flatnonzero((dataset["target_class"].values != NO_CLASS).any(1))
    rows = np.sort(np.random.default_rng(_SEED).permutation(rows)[:_OTHERS])
    if not len(rows) or not explainers:
        return None
    weights, borders = [], []
    for row in rows:  # one by one, since volumes with many maps are large
        maps = maps_of(dataset.isel(image_id=row), explainers)
        weights.append(strongest(_places(maps)))
        borders.append(on_border(maps))
    of = np.array([subjects[int(row)] for row in rows], dtype=np.str_)
    return Others(tuple(explainers), of, np.array(weights), np.array(borders))


def maps_of(image: xr.Dataset, explainers: Sequence[str]) -> Floats:
    """Read the maps of an image for its first target, ``(explainer, *space)``."""
    target = int(np.flatnonzero(image["target_class"].values != NO_CLASS)[0])
    maps: Floats = image["attribution"].isel(target=target).sel(explainer=list(explainers)).values
    return maps


def on_border(maps: Floats) -> Floats:
    """Measure what the outer tenth along each side holds of the evidence of ``(map, *space)``, against an even map.

    Returns ``(map, side)``; NaN where there is no evidence.
    """
    positive = np.clip(maps, 0, None)
    total = positive.sum(tuple(range(1, maps.ndim)), dtype=np.float64)
    found = []
    for axis in range(1, maps.ndim):
        size = maps.shape[axis]
        wide = max(1, round(size / 10))
        for side in (range(wide), range(size - wide, size)):
            held = positive.take(side, axis=axis).sum(tuple(range(1, maps.ndim)), dtype=np.float64)
            found.append(np.divide(held, total, out=np.full(len(maps), np.nan), where=total > 0) / (wide / size))
    return np.stack(found, axis=-1)


def _places(maps: Floats) -> Floats:
    """Flatten maps to ``(explainer, place)``; of large ones, take places that are drawn with a fixed seed."""
    flat = maps.reshape(len(maps), -1)
    if flat.shape[1] <= _PLACES:
        return flat
    return flat[:, np.sort(np.random.default_rng(_SEED).choice(flat.shape[1], _PLACES, replace=False))]


def strongest(maps: Floats) -> Floats:
    """Weigh the places of ``(map, place)``: 1 among the strongest 5 %, 0 outside, places that tie at its edge alike.

    The strength is the positive part, the evidence for the target. A map that has none, or is not finite, is NaN.
    """
    maps = np.asarray(maps, np.float32)
    count = _count(maps.shape[1])
    found = np.full(maps.shape, np.nan, np.float32)
    for row, values in enumerate(np.clip(maps, 0, None)):
        if np.isfinite(values).all() and values.any():
            edge = np.partition(values, -count)[-count]
            above, tied = values > edge, values == edge
            found[row] = above + tied * ((count - above.sum()) / tied.sum())
    return found


def _count(places: int) -> int:
    return max(1, round(STRONGEST * places))
