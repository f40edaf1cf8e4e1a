"""Parts of the input that mattered: shares of the attribution, of a channel say, over the cohort and of one image."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.phrases import percent
from tasks.report.performance import Estimate
from tasks.report.statistics import ALL_CLASSES, evidence

_NAMED = 6
"""Parts of one image that are named, those of the largest shares."""


@dataclass(frozen=True)
class Shares:
    """Mean shares over images and targets: the parts, the largest first, and a row of estimates an explainer."""

    of: str
    parts: list[str]
    rows: list[tuple[str, list[Estimate]]]


def mean_shares(dataset: xr.Dataset, subjects: Sequence[str]) -> list[Shares]:
    """Average every output of shares in a store's explained images; intervals are of resampled subjects.

    Parameters
    ----------
    subjects
        Whose image each is.
    """
    names = np.array([*(str(name) for name in dataset["class"].values), ""])
    classes = names[dataset["target_class"].values]  # -1 takes the last
    return [_mean(share, classes, subjects) for share in _shares(dataset) if np.isfinite(share.values).any()]


def shares_in_words(image: xr.Dataset, target: int) -> list[str]:
    """Name the largest shares in the attribution of one image, explainer by explainer."""
    said = []
    for share in _shares(image):
        of_target = share.isel(target=target)
        for explainer in of_target["explainer"].values:
            values = of_target.sel(explainer=explainer).values
            if np.isfinite(values).all():
                parts = _names(share)
                largest = [f"{parts[part]} {percent(float(values[part]))}" for part in np.argsort(-values)[:_NAMED]]
                said.append(f"{explainer}: {', '.join(largest)}")
    return said


def _shares(dataset: xr.Dataset) -> Iterator[xr.DataArray]:
    return (share for share in dataset.data_vars.values() if share.attrs.get("kind") == "share")


def _mean(share: xr.DataArray, classes: NDArray[np.str_], subjects: Sequence[str]) -> Shares:
    explainers, parts = [str(name) for name in share["explainer"].values], _names(share)
    values = {part: share.values[..., place] for place, part in enumerate(parts)}
    table = evidence(values, explainers, classes, subjects, controls=[]).loc[ALL_CLASSES]
    means = table["mean"].unstack().loc[parts, explainers].to_numpy()
    known = [name for name, mean in zip(explainers, means[0], strict=True) if np.isfinite(mean)]
    ranked = [parts[place] for place in np.argsort(-np.nanmean(means, axis=1), kind="stable")]
    return Shares(
        of=str(share.dims[-1]),
        parts=ranked,
        rows=[
            (name, [Estimate(*table.loc[(part, name), ["mean", "low", "high"]].astype(float)) for part in ranked])
            for name in known
        ],
    )


def _names(share: xr.DataArray) -> list[str]:
    """Name the parts, such as sequences; a number says of what it is."""
    of = str(share.dims[-1])
    return [f"{of} {part}" if str(part).isdigit() else str(part) for part in share[of].values]
