"""Outputs that no section of the report shows by itself: what each is, and what it holds in numbers."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from models.outputs import Output

_SHOWN = ("vector", "artefact", "result")


@dataclass(frozen=True)
class Described:
    """An output in numbers: its dimensions, the share of it that is computed, and least, median and greatest value."""

    name: str
    about: str
    units: str
    dims: str
    defined: float
    least: float
    median: float
    greatest: float


def describe(outputs: Iterable[Output], dataset: xr.Dataset) -> Iterator[Described]:
    """Describe vectors, artefacts and results; of those that have a value an image, the images of `dataset` alone."""
    for output in outputs:
        if output.kind in _SHOWN:
            values = dataset[output.name].values.astype(np.float64)
            there = np.isfinite(values) if output.fill is None else values != output.fill
            known = values[there]
            ends = np.quantile(known, [0, 0.5, 1]) if known.size else np.full(3, np.nan)
            sides = " × ".join(
                f"{size} {str(dim).replace('_', ' ')}" for dim, size in dataset[output.name].sizes.items()
            )
            yield Described(
                output.name,
                output.long_name,
                output.units,
                sides or "one number",
                float(there.mean()) if there.size else 0.0,
                *(float(end) for end in ends),
            )
