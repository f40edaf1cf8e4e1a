"""In which regions of an atlas does a network look: shares against volumes, beside controls, and between classes."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray
from scipy.stats import mannwhitneyu

from models.regions import RegionFlag
from tasks.plan.labels import Labels
from tasks.plan.planned import PlannedResult
from tasks.plan.regions import Regions
from tasks.report.evidence import CONTROLS, Cell
from tasks.report.statistics import ALL_CLASSES, evidence, holm

_SHOWN = 12
"""Regions that a table has."""

_SURE = 0.05

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Difference:
    """A region whose share of the relevance differs between images with and without a class, by the corrected p."""

    of_class: str
    explainer: str
    region: str
    with_it: float
    without: float
    p: float


@dataclass(frozen=True)
class ByRegion:
    """Relevance by region of one atlas, over images and targets.

    Attributes
    ----------
    images, unplaced, unreached
        How many images have regions, have no geometry, or are not reached by the atlas.
    explainers
        Names of the columns; controls come last.
    regions
        How many regions the atlas has; `rows` has those in which an explainer finds most against their volume.
    rows
        Name and mean volume of a region, and a cell an explainer: the share of the relevance divided by the volume.
    outside, laterality
        A cell an explainer.
    limit
        The share outside from which a map is flagged, if any; `flagged` are such images by explainer.
    tested
        How many comparisons between classes were made; `differences` are those that remain after Holm's correction.
    """

    title: str
    images: int
    unplaced: int
    unreached: int
    explainers: list[str]
    regions: int
    rows: list[tuple[str, float, list[Cell]]]
    outside: list[Cell]
    laterality: list[Cell]
    limit: float | None
    flagged: list[int]
    tested: int
    differences: list[Difference]

    @property
    def has_controls(self) -> bool:
        return self.explainers[-1].startswith(CONTROLS)


def by_region(
    dataset: xr.Dataset, planned: Iterable[PlannedResult], subjects: Sequence[str], labels: Labels, exclusive: bool
) -> Iterator[ByRegion]:
    """Sum up the results `regions` of a store's explained images.

    Parameters
    ----------
    subjects
        Whose image each is.
    labels
        Of these images.
    exclusive
        Whether classes exclude each other, so that of two one is compared.
    """
    for result in (one.result for one in planned):
        if isinstance(result, Regions) and (dataset["target_class"].values >= 0).any():
            yield _of_atlas(result, dataset, subjects, labels, exclusive)


def _of_atlas(
    result: Regions, dataset: xr.Dataset, subjects: Sequence[str], labels: Labels, exclusive: bool
) -> ByRegion:
    title = result.title
    names = [str(name) for name in dataset["explainer"].values]
    explainers = sorted(names, key=lambda name: name.startswith(CONTROLS))
    share, volume = dataset[f"{title}_share"].values, dataset[f"{title}_volume"].values
    chosen = _most(share, volume, [not name.startswith(CONTROLS) for name in names])
    with np.errstate(divide="ignore", invalid="ignore"):
        scores = {result.regions[at]: share[..., at] / volume[:, None, None, at] for at in chosen}
    scores |= {f"{title}_{name}": dataset[f"{title}_{name}"].values for name in ("outside", "laterality")}
    cells = _cells(scores, dataset, names, explainers, subjects)
    flags = dataset[f"{title}_flags"].sel(explainer=explainers).values
    odd: dict[RegionFlag, NDArray[np.bool_]] = {flag: np.any(flags & flag, axis=1) for flag in RegionFlag}
    tests = list(_compared(share, result.regions, names, dataset, subjects, labels, exclusive))
    return ByRegion(
        title=title,
        images=int(np.isfinite(volume).all(1).sum()),
        unplaced=int(odd[RegionFlag.NO_GEOMETRY].any(1).sum()),
        unreached=int(odd[RegionFlag.NO_OVERLAP].any(1).sum()),
        explainers=explainers,
        regions=len(result.regions),
        rows=[(result.regions[at], float(np.nanmean(volume[:, at])), cells[result.regions[at]]) for at in chosen],
        outside=cells[f"{title}_outside"],
        laterality=cells[f"{title}_laterality"],
        limit=result.flag_outside,
        flagged=odd[RegionFlag.OUTSIDE].sum(0).tolist(),
        tested=len(tests),
        differences=_sure(tests),
    )


def _most(share: Floats, volume: Floats, is_told: Sequence[bool]) -> list[int]:
    """Choose the regions in which some explainer finds most against their volume, the first in order of the most."""
    known = np.where(np.isfinite(share), share, 0).sum((0, 1))  # (explainer, region)
    even = np.where(np.isfinite(share), volume[:, None, None], 0).sum((0, 1))
    against = np.divide(known, even, out=np.zeros(known.shape), where=even > 0)
    told = against[np.array(is_told)] if any(is_told) else against
    ranked = np.argsort(-told.max(0), kind="stable")
    return [int(at) for at in ranked if told[:, at].max() > 0][:_SHOWN]


def _cells(
    scores: dict[str, Floats], dataset: xr.Dataset, names: list[str], explainers: list[str], subjects: Sequence[str]
) -> dict[str, list[Cell]]:
    """Estimate the mean of each score ``(image, target, explainer)``, a cell an explainer, beside the controls."""
    classes = np.array([*map(str, dataset["class"].values), ""])[dataset["target_class"].values]  # -1 takes the last
    controls = [name for name in names if name.startswith(CONTROLS)]
    table = evidence(scores, names, classes, subjects, controls).loc[ALL_CLASSES]
    found: dict[str, list[Cell]] = {score: [] for score in scores}
    for score, name in product(scores, explainers):
        mean, low, high = (float(table[column][score, name]) for column in ("mean", "low", "high"))
        is_chance = bool(controls) and name not in controls and not table["differs"][score, name]
        found[score].append(Cell(mean, low, high, is_chance))
    return found


def _compared(
    share: Floats,
    regions: Sequence[str],
    names: Sequence[str],
    dataset: xr.Dataset,
    subjects: Sequence[str],
    labels: Labels,
    exclusive: bool,
) -> Iterator[Difference]:
    """Compare subjects with a class to those without, by region and explainer (Mann-Whitney); p is not corrected.

    A subject counts once, by the mean of their images, and not at all with images of both kinds.
    """
    classes = [str(name) for name in dataset["class"].values]
    there = np.isfinite(share).sum(1)
    values = np.divide(np.nansum(share, axis=1), there, out=np.full(there.shape, np.nan), where=there > 0)
    for place in range(len(classes) == 2 and exclusive, len(classes)):
        having, lacking = _by_subject(values, subjects, labels.truth[:, place], labels.known)
        for at, number in np.ndindex(values.shape[1:]):
            one, other = (of[np.isfinite(of[:, at, number]), at, number] for of in (having, lacking))
            if min(len(one), len(other)) > 1:
                p = float(mannwhitneyu(one, other).pvalue)
                yield Difference(classes[place], names[at], regions[number], float(one.mean()), float(other.mean()), p)


def _by_subject(
    values: Floats, subjects: Sequence[str], truth: NDArray[np.bool_], known: NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Average over the images of each subject: ``(subject, ...)`` of those with the class, and of those without."""
    rows = pd.DataFrame(values.reshape(len(values), -1)[known]).groupby(np.asarray(subjects)[known])
    share_with_it = pd.Series(truth[known], dtype=float).groupby(np.asarray(subjects)[known]).mean().to_numpy()
    means = rows.mean().to_numpy().reshape(-1, *values.shape[1:])
    return means[share_with_it == 1], means[share_with_it == 0]


def _sure(tests: Sequence[Difference]) -> list[Difference]:
    """Correct for the number of tests, and keep those that remain, the surest first."""
    corrected = holm(np.array([test.p for test in tests], float))
    kept = [
        Difference(test.of_class, test.explainer, test.region, test.with_it, test.without, float(p))
        for test, p in zip(tests, corrected, strict=True)
        if p < _SURE
    ]
    return sorted(kept, key=lambda one: one.p)
