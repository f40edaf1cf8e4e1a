"""The reach of maps over a cohort: their colours mean the same in report, viewer and exports, and in every case."""

from collections.abc import Iterable, Mapping, Sequence
from math import floor, log10
from typing import NamedTuple

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.outputs import EXPLAINER, IMAGE_ID, SPACE, Output
from tasks.store.template import EXPLAINED

_PERCENTILE = 99.5
_SEED = 20261126
_IMAGES = 64
_STEPS = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10)
_PLACES = 2**18
"""The number of places of a map that are looked at, evenly apart; of most pictures all."""


class Reach(NamedTuple):
    """The reach of the maps of an explainer.

    Attributes
    ----------
    limit
        The 99.5th percentile of their magnitudes, rounded up to one of few numbers, so that more images seldom change
        it; 1 where all are blank, or none is finite anywhere.
    signed
        Whether a value is below zero.
    """

    limit: float
    signed: bool


Reaches = Mapping[str, Mapping[str, Reach]]
"""By output and explainer."""


def reaches_of(stored: xr.Dataset, outputs: Iterable[Output]) -> Reaches:
    """Find how far the maps among some outputs reach."""
    explained = np.flatnonzero(stored["status"].values == EXPLAINED)
    return {output.name: reach_of(stored[output.name], explained) for output in outputs if output.is_map}


def reach_of(maps: xr.DataArray, explained: Sequence[int] | NDArray[np.intp]) -> dict[str, Reach]:
    """Find how far the maps of each explainer reach, over explained images that are drawn by a fixed seed."""
    order = np.random.default_rng(_SEED).random(maps.sizes[IMAGE_ID])  # that of a row stays as the cohort grows
    rows = np.sort(sorted(explained, key=lambda row: order[row])[:_IMAGES])
    names = map(str, maps[EXPLAINER].values)
    return {name: _reach(maps.isel({EXPLAINER: at}), rows) for at, name in enumerate(names)}


def _reach(maps: xr.DataArray, rows: NDArray[np.intp]) -> Reach:
    values = np.concatenate([_sampled(maps.isel({IMAGE_ID: int(row)})) for row in rows] or [np.zeros(0)])
    limit = float(np.percentile(np.abs(values), _PERCENTILE)) if values.size else 0.0
    return Reach(_rounded_up(limit) if limit else 1.0, bool(values.min(initial=0) < 0))


def _sampled(one: xr.DataArray) -> NDArray[np.floating]:
    places = int(np.prod([one.sizes[dim] for dim in one.sizes.keys() & set(SPACE)]))
    step = -(-places // _PLACES) | 1  # an odd step meets every column
    flat = one.values.reshape(-1, places)[:, ::step].ravel()
    finite: NDArray[np.floating] = flat[np.isfinite(flat)]
    return finite


def _rounded_up(value: float) -> float:
    power = floor(log10(value))
    step = next(step for step in _STEPS if value / 10.0**power <= step * (1 + 1e-9))
    return float(f"{step}e{power}")
