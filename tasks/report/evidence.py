"""Can the maps be trusted: the evidence table of the metrics in the store, and what its plots show."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import xarray as xr
from numpy.typing import NDArray

from models.explainers.base import CONTROLS
from models.metrics.base import METRIC
from models.results.statistics import LEVEL
from tasks.report.numbers import with_interval
from tasks.report.statistics import ALL_CLASSES, evidence

_AT_ONCE = 2**14
"""Images whose curves are in memory together."""

_RIGHT, _LOOKING = 0.8, 2.0
"""The AUC from which a model counts as right, and how much more than chance its maps must lie in the mask."""

_SIGNS = {"higher": 1, "lower": -1, "none": 0}

FAMILIES = ("faithfulness", "plausibility", "robustness", "sanity", "complexity", "agreement")


@dataclass(frozen=True)
class Cell:
    """Mean of one metric for one explainer, whose interval is NaN of fewer than two subjects.

    Attributes
    ----------
    is_chance
        Whether it does not differ from every control.
    is_better, is_worse
        Whether it differs from every control and is better than all, or differs from one and is worse than that.
    """

    mean: float
    low: float
    high: float
    is_chance: bool
    is_better: bool = False
    is_worse: bool = False

    def __str__(self) -> str:
        return with_interval(self.mean, self.low, self.high)


@dataclass(frozen=True)
class Column:
    """One metric: its name, which values speak for a map, and what it measures."""

    name: str
    better: str
    about: str


@dataclass(frozen=True)
class Family:
    """Metrics of one family, with a row of cells an explainer; controls come last."""

    name: str
    columns: list[Column]
    rows: list[tuple[str, list[Cell]]]


@dataclass(frozen=True)
class Curve:
    """Mean of a curve over images and targets, by explainer, with where its points lie.

    Attributes
    ----------
    noise
        What pairs of maps of noise reach, where the metric says it.
    """

    metric: str
    name: str
    points: NDArray[np.generic]
    means: Mapping[str, NDArray[np.floating]]
    noise: float | None


def evidence_table(dataset: xr.Dataset, subjects: Sequence[str]) -> pd.DataFrame | None:
    """Make the evidence table of a store's explained images; None if it holds no metric.

    Parameters
    ----------
    subjects
        Whose image each is.
    """
    scores = {name.removeprefix(METRIC): dataset[name].values for name in metric_variables(dataset)}
    explainers = [str(name) for name in dataset["explainer"].values] if scores else []
    names = [str(name) for name in dataset["class"].values]
    classes = np.array([*names, ""])[dataset["target_class"].values]  # -1 takes the last
    if not scores or not (classes != "").any():
        return None
    controls = [name for name in explainers if name.startswith(CONTROLS)]
    return evidence(scores, explainers, classes, subjects, controls)


def families(table: pd.DataFrame, dataset: xr.Dataset, of_class: str = ALL_CLASSES) -> list[Family]:
    """Arrange the table of one class for reading."""
    found = []
    for family in FAMILIES:
        names = [name for name in metric_variables(dataset) if dataset[name].attrs["family"] == family]
        if names:
            columns = [
                Column(name.removeprefix(METRIC), dataset[name].attrs["better"], dataset[name].attrs["long_name"])
                for name in names
            ]
            found.append(
                Family(
                    family,
                    columns,
                    _rows(table[table.index.get_level_values("class") == of_class].droplevel("class"), columns),
                )
            )
    return found


def curves(dataset: xr.Dataset) -> list[Curve]:
    """Average the curves that metrics were made of."""
    found = []
    for name in sorted(str(name) for name, one in dataset.data_vars.items() if one.attrs.get("kind") == "curve"):
        curve = dataset[name].chunk({"image_id": _AT_ONCE})
        means = curve.mean(("image_id", "target"))
        noise = f"{METRIC}{curve.attrs['metric']}_random_{curve.attrs['curve']}"
        found.append(
            Curve(
                metric=curve.attrs["metric"],
                name=curve.attrs["curve"],
                points=dataset[curve.dims[-1]].values,
                means={str(title): means.sel(explainer=title).values for title in dataset["explainer"].values},
                noise=float(dataset[noise].mean()) if noise in dataset else None,
            )
        )
    return found


def _rows(table: pd.DataFrame, columns: Sequence[Column]) -> list[tuple[str, list[Cell]]]:
    explainers = list(dict.fromkeys(table.index.get_level_values("explainer")))
    explainers.sort(key=lambda name: name.startswith(CONTROLS))
    controls = [name for name in explainers if name.startswith(CONTROLS)]
    rows = []
    for explainer in explainers:
        cells = []
        for column in columns:
            row = table.loc[(column.name, explainer)]
            against = controls if explainer not in controls and not np.isnan(row["mean"]) else []
            cells.append(_cell(row, against, _SIGNS[column.better]))
        rows.append((explainer, cells))
    return rows


def _cell(row: pd.Series, controls: Sequence[str], sign: int) -> Cell:
    """Hold a row of the table against some controls; `sign` is that of a difference which speaks for a map."""
    ahead = [sign * row[f"minus_{name}"] > 0 for name in controls]
    behind = [sign * row[f"minus_{name}"] < 0 and row[f"p_{name}"] < LEVEL for name in controls]
    differs = bool(row["differs"])
    return Cell(
        row["mean"],
        row["low"],
        row["high"],
        is_chance=bool(controls) and not differs,
        is_better=bool(controls) and differs and all(ahead),
        is_worse=any(behind),
    )


def metric_variables(dataset: xr.Dataset) -> list[str]:
    """Names of the variables that hold metrics, without those that a metric is read with."""
    return [str(name) for name, values in dataset.data_vars.items() if values.attrs.get("kind") == "metric"]


def suspicion(table: pd.DataFrame, auc: float) -> str:
    """Say so where a model is right while its maps hardly look at the finding; empty if there is no such sign.

    The share of evidence inside the mask is held against that of the random control, which is the mask's share of the
    image.
    """
    metric, control = "relevance_mass", f"{CONTROLS}random"
    means = table["mean"].get((ALL_CLASSES, metric))
    if means is None or control not in means or not auc >= _RIGHT:
        return ""
    told = means[[name for name in means.index if not name.startswith(CONTROLS)]].dropna()
    if told.empty or told.median() >= _LOOKING * means[control]:
        return ""
    return (
        f"The model is mostly right (AUC {auc:.2f}), but the median explainer finds {100 * told.median():.1f} % of the "
        f"evidence inside the mask, where a map of noise has {100 * means[control]:.1f} %. It may decide by "
        "something else than the finding: a shortcut, such as a marker or the device. Look at the mean maps."
    )
