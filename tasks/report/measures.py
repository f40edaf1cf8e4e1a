"""Measures: how well a layer tells each, and how the target follows it, by class."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr

from models.results import RCV
from models.results.concepts import FEWEST
from models.results.rcv import MeasureFlag
from models.results.ridge import FOLDS
from tasks.plan.plan import Plan

_WHY = {
    MeasureFlag.TOO_FEW_IMAGES: f"fewer than {FEWEST} images have it",
    MeasureFlag.TOO_FEW_SUBJECTS: f"fewer than {FOLDS} subjects have it",
    MeasureFlag.AT_CHANCE: "the layer tells it no better than a shuffled one, at chance",
}


@dataclass(frozen=True)
class Measure:
    """A measure of one result, and the class, Br and mean sensitivity of each row that is told.

    Attributes
    ----------
    images, missing
        How many images have it, and how many lack it.
    why
        Why it is no concept; empty where it is one.
    """

    name: str
    images: int
    missing: int
    r2: float
    low: float
    high: float
    p: float
    why: str
    rows: list[tuple[str, float, float]]

    @property
    def strength(self) -> float:
        """The largest magnitude of Br; -1 where there is none."""
        return max((abs(br) for _, br, _ in self.rows if not np.isnan(br)), default=-1.0)


@dataclass(frozen=True)
class Measures:
    """The measures of one result, by its title, the strongest first, and the layer that tells them."""

    title: str
    layer: str
    measures: list[Measure]


def regressed_measures(plan: Plan, dataset: xr.Dataset) -> list[Measures]:
    """Collect what each `rcv` of the plan has found."""
    results = [planned.result for planned in plan.results if isinstance(planned.result, RCV)]
    return [
        Measures(
            one.title,
            str(dataset[one.of].attrs["long_name"]),
            sorted(_measures(one.title, dataset), key=lambda measure: -measure.strength),
        )
        for one in results
    ]


def _measures(title: str, dataset: xr.Dataset) -> Iterator[Measure]:
    classes = [str(name) for name in dataset["class"].values]
    names = ("value", "images", "missing", "r2", "r2_low", "r2_high", "p", "flags", "br", "sensitivity")
    arrays = {name: dataset[f"{title}_{name}"].values for name in names}
    for place, measure in enumerate(dataset[f"{title}_measure"].values):
        r2, low, high, p = (float(arrays[name][place]) for name in ("r2", "r2_low", "r2_high", "p"))
        rows = zip(classes, arrays["br"][place].tolist(), arrays["sensitivity"][place].tolist(), strict=True)
        flags = MeasureFlag(int(arrays["flags"][place]))
        if flags == MeasureFlag.CONSTANT:
            why = f"it is {np.nanmax(arrays['value'][:, place]):g} in all images"
        else:
            why = _WHY[flags] if flags else ""
        yield Measure(
            name=str(measure),
            images=int(arrays["images"][place]),
            missing=int(arrays["missing"][place]),
            r2=r2,
            low=low,
            high=high,
            p=p,
            why=why,
            rows=[row for row in rows if row[2] == row[2]],
        )
