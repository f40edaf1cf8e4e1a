"""Drift: evidence for maps that got worse from one run to the next."""

from dataclasses import dataclass
from io import BytesIO

import pandas as pd

from models.metrics.base import METRIC
from tasks.report import TABLE
from tasks.report.evidence import CONTROLS, metric_variables
from tasks.storage.location import Location
from tasks.store.template import open_store

_INDEX = ["class", "metric", "explainer"]


@dataclass(frozen=True)
class Shift:
    """A mean, and the earlier 95 % interval that it may lie outside of."""

    of_class: str
    metric: str
    explainer: str
    mean: float
    low: float
    high: float

    def is_worse(self, better: str | None) -> bool:
        return (better == "higher" and self.mean < self.low) or (better == "lower" and self.mean > self.high)

    def __str__(self) -> str:
        return (
            f"{self.metric} of {self.explainer}, class {self.of_class}: mean {self.mean:.3g}, "
            f"before between {self.low:.3g} and {self.high:.3g}"
        )


def read_evidence(output: Location) -> pd.DataFrame | None:
    """Read the evidence table of the last report; None if there is none."""
    try:
        data = (output / TABLE).read()
    except FileNotFoundError:
        return None
    return pd.read_csv(BytesIO(data), index_col=_INDEX)


def directions(output: Location) -> dict[str, str]:
    """Say of each metric in a store which values are better: ``higher``, ``lower`` or ``none``."""
    dataset = open_store(output)
    return {name.removeprefix(METRIC): str(dataset[name].attrs["better"]) for name in metric_variables(dataset)}


def worsened(before: pd.DataFrame | None, now: pd.DataFrame | None, better: dict[str, str]) -> list[Shift]:
    """Find the means of explainers that lie outside the earlier 95 % interval, on the worse side of it.

    What one of the tables lacks is not compared, nor are controls or metrics of which neither direction is better.

    Parameters
    ----------
    before, now
        As `tasks.report.statistics.evidence` makes them; None: there is no such table.
    better
        By metric, ``higher``, ``lower`` or ``none``.
    """
    if before is None or now is None:
        return []
    both = now[["mean"]].join(before[["low", "high"]], how="inner").reset_index()
    found = [Shift(*(row[name] for name in (*_INDEX, "mean", "low", "high"))) for row in both.to_dict("records")]
    return [one for one in found if not one.explainer.startswith(CONTROLS) and one.is_worse(better.get(one.metric))]
