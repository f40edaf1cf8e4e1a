"""Similar cases: the nearest cases beside each case, and how well neighbours tell labels over the cohort."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.outputs import Output
from tasks.report.numbers import number
from tasks.report.performance import Estimate
from tasks.report.shown import Shown, show_alone
from tasks.report.statistics import ALL_CLASSES, evidence

_NEAREST = 2
"""The number of nearest cases that are shown of a case whose label is unknown."""


@dataclass(frozen=True)
class Neighbour:
    """A case beside a case, and why it is shown."""

    relation: str
    case: Shown


@dataclass(frozen=True)
class Similar:
    """The similar cases of a store, of one result.

    Attributes
    ----------
    dataset
        The explained images.
    rows
        ``(image,)``, the row of each in the store.
    by
        What is compared.
    """

    dataset: xr.Dataset
    rows: NDArray[np.intp]
    prefix: str
    by: str

    def of(self, image: xr.Dataset) -> list[Neighbour]:
        """Find the nearest with the same and with another label; without a label, the nearest of all."""
        return [self._neighbour(*one) for one in self._by_label(image) or self._nearest(image)]

    def _by_label(self, image: xr.Dataset) -> list[tuple[str, int, float]]:
        found = []
        for kind, relation in (("same", "nearest with the same label"), ("other", "nearest with another label")):
            name = f"{self.prefix}_{kind}_label"
            if name in image and image[name] >= 0:
                found.append((relation, int(image[name]), float(image[f"{name}_cosine"])))
        return found

    def _nearest(self, image: xr.Dataset) -> list[tuple[str, int, float]]:
        rows, cosines = (image[f"{self.prefix}_{part}"].values[:_NEAREST] for part in ("image", "cosine"))
        return [("nearest", int(row), float(one)) for row, one in zip(rows, cosines, strict=True) if row >= 0]

    def _neighbour(self, relation: str, row: int, cosine: float) -> Neighbour:
        return Neighbour(relation, show_alone(self.dataset, self.rows, row, f"cosine {number(cosine, '.3f')}"))


@dataclass(frozen=True)
class Retrieval:
    """The mean share of the first `k` neighbours that have the label of their image, and the share by chance."""

    by: str
    k: int
    images: int
    precision: Estimate
    chance: Estimate
    differs: bool


def similar_cases(outputs: Iterable[Output], dataset: xr.Dataset, rows: NDArray[np.intp]) -> list[Similar]:
    """List the results of similar cases among a store's outputs.

    Parameters
    ----------
    dataset
        The explained images.
    rows
        ``(image,)``, the row of each in the store.
    """
    return [
        Similar(dataset, rows, output.name.removesuffix("_image"), str(output.attrs["by"]))
        for output in outputs
        if "similar" in output.attrs and output.name.endswith("_image")
    ]


def retrieval(similar: Similar, subjects: Sequence[str]) -> Iterator[Retrieval]:
    """Compare the precision at the first rank and at the last with chance; nothing where no label is known.

    Intervals are of resampled subjects, and the difference is paired (`tasks.report.statistics`).

    Parameters
    ----------
    subjects
        Whose image each is.
    """
    if (name := f"{similar.prefix}_precision") not in similar.dataset:
        return
    precision = similar.dataset[name].values.astype(np.float64)
    chance = similar.dataset[f"{similar.prefix}_chance"].values.astype(np.float64)
    for place in dict.fromkeys((0, precision.shape[1] - 1)):
        known = np.isfinite(precision[:, place])
        if not known.any():
            continue
        scores = np.stack([precision[:, place], np.where(known, chance, np.nan)], axis=-1)[:, None]
        classes = np.full((len(scores), 1), ALL_CLASSES)
        table = evidence({"precision": scores}, ("neighbours", "chance"), classes, subjects, ["chance"])
        found = table.loc[ALL_CLASSES].loc["precision"]
        own, by_chance = (
            Estimate(*found.loc[one, ["mean", "low", "high"]].astype(float)) for one in ("neighbours", "chance")
        )
        differs = bool(found.loc["neighbours", "differs"])
        yield Retrieval(similar.by, place + 1, int(known.sum()), own, by_chance, differs)
