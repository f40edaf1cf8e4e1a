"""Regions that raters have drawn, in the place of masks: the metrics of the stored maps against them."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pandas as pd
import torch
import xarray as xr
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.explainers.base import MAPS
from models.metrics import Metric, standard
from models.metrics.base import Evaluated, MapMetric, Truth
from models.metrics.evaluate import spacing_of
from models.prediction import AFFINE, MASK
from tasks.plan.plan import Plan
from tasks.ratings.rating import Rating
from tasks.ratings.statistics import Estimate, mean_over_patients

COLUMNS = ("image_id", "rater", "target", "explainer", "metric", "by_region", "by_mask")


class AgainstRegions(BaseModel):
    """A metric of an explainer's maps against the regions that raters drew.

    Attributes
    ----------
    maps
        Of how many maps and regions.
    by_mask
        The mean over the same maps against the masks of the cohort, of images that have one.
    """

    model_config = ConfigDict(frozen=True)

    metric: str
    explainer: str
    maps: int
    by_region: Estimate
    by_mask: Estimate


class _Marked(Evaluated):
    """Maps of one image beside a region; there is no network that could be asked."""

    _marked: tuple[Tensor, Truth]

    def __init__(self, maps: Tensor, truth: Truth) -> None:
        object.__setattr__(self, "_marked", (maps, truth))

    @property
    def maps(self) -> Tensor:
        return self._marked[0]

    @property
    def truth(self) -> Truth:
        return self._marked[1]


def against_regions(dataset: xr.Dataset, plan: Plan, ratings: Sequence[Rating]) -> pd.DataFrame:
    """Evaluate the stored maps of rated images against the regions, by every metric that needs a mask and no network.

    The metrics are those of the plan, or the standard ones if it has none. A region counts for the target that was
    rated; without one, for all.

    Returns
    -------
    DataFrame
        One row a rating, target, explainer and metric: `COLUMNS`. `by_mask` is the value of the same map against the
        cohort's mask; NaN where there is none.
    """
    rows = {id: row for row, id in enumerate(dataset["image_id"].values.tolist())}
    found = [
        row
        for rating in ratings
        if rating.region is not None and plan.maps
        for row in _of_rating(dataset.isel(image_id=rows[rating.image_id]), plan, rating)
    ]
    return pd.DataFrame(found, columns=list(COLUMNS))


def summed_up(table: pd.DataFrame, patients: Mapping[str, str]) -> tuple[AgainstRegions, ...]:
    """Average what `against_regions` has found over ratings and targets, by metric and explainer."""
    found = []
    for (metric, explainer), own in table.groupby(["metric", "explainer"], sort=False):
        of = [patients[id] for id in own["image_id"]]
        found.append(
            AgainstRegions(
                metric=str(metric),
                explainer=str(explainer),
                maps=int(own["by_region"].notna().sum()),
                by_region=mean_over_patients(own["by_region"], of),
                by_mask=mean_over_patients(own["by_mask"].where(own["by_region"].notna()), of),
            )
        )
    return tuple(found)


def metrics_of(plan: Plan) -> tuple[MapMetric, ...]:
    """Choose the metrics that compare a map with a mask."""
    planned = _with_masks(one.metric for one in plan.metrics)
    return planned or _with_masks(standard())


def _with_masks(metrics: Iterable[Metric]) -> tuple[MapMetric, ...]:
    return tuple(one for one in metrics if isinstance(one, MapMetric) and one.needs_masks)


def _of_rating(image: xr.Dataset, plan: Plan, rating: Rating) -> Iterator[tuple[str | float, ...]]:
    assert rating.region is not None
    targets = [rating.target] if rating.target else list(plan.frame.targets)
    stored = torch.from_numpy(image[MAPS].sel(target=targets).values)
    maps = stored.flatten(0, 1)  # one of each target and explainer
    spacing = spacing_of(torch.from_numpy(image[AFFINE].values)[None], len(plan.grid)).expand(len(maps), -1)
    mask = image[MASK].values == 1 if plan.masks else np.zeros(plan.grid, bool)
    region, reference = (
        _Marked(maps.nan_to_num(0.0, 0.0, 0.0), Truth(torch.from_numpy(marked).expand(maps.shape), spacing))
        for marked in (rating.region.mask, mask)
    )
    there = maps.flatten(1).isfinite().all(1)
    for metric in metrics_of(plan):
        by_region, by_mask = (
            _value(metric, marked).where(there, torch.nan).view(stored.shape[:2]) for marked in (region, reference)
        )
        for at in np.ndindex(*stored.shape[:2]):
            named = (rating.image_id, rating.rater, targets[at[0]], plan.maps[at[1]], metric.title)
            yield (*named, float(by_region[at]), float(by_mask[at]))


def _value(metric: MapMetric, marked: _Marked) -> Tensor:
    """Evaluate maps by a metric that asks nothing: its generator ends at once."""
    evaluating = metric.evaluate(marked)
    try:
        next(evaluating)
    except StopIteration as end:
        return end.value.value
    raise TypeError(f"{metric.title} asks the network, which is not loaded for ratings")
