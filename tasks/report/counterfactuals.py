"""Counterfactuals in the report: in how many images the prediction turns, and what the change is in each case."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import xarray as xr

from tasks.plan.plan import Plan
from tasks.report.performance import Estimate
from tasks.report.pictures import INPUT, changed_images
from tasks.report.statistics import ALL_CLASSES, evidence
from tasks.report.words import percent


class Turned(NamedTuple):
    """The counterfactuals of one explainer over a cohort.

    Attributes
    ----------
    valid
        The share of images and targets whose prediction turns.
    latent
        The median L2 of the change in the latent space; NaN where none was found.
    """

    explainer: str
    valid: Estimate
    latent: float


def turned_predictions(dataset: xr.Dataset, subjects: Sequence[str]) -> list[Turned]:
    """Describe the counterfactuals of explained images; intervals are of resampled subjects."""
    return [_turned(dataset, name, subjects) for name in changed_images(dataset)]


def _turned(dataset: xr.Dataset, name: str, subjects: Sequence[str]) -> Turned:
    valid = dataset[f"{name}_valid"].values.astype(np.float64)
    latent = dataset[f"{name}_distance"].sel({f"{name}_measure": "latent"}).values
    table = evidence({"valid": valid[..., None]}, (name,), np.full(valid.shape, "target"), subjects, controls=[])
    found = table.loc[(ALL_CLASSES, "valid", name), ["mean", "low", "high"]].astype(float)
    return Turned(name, Estimate(*found), float(np.nanmedian(latent)) if np.isfinite(latent).any() else np.nan)


def with_input(image: xr.Dataset, plan: Plan) -> xr.Dataset:
    """Add an image as the network takes it, if there is a counterfactual to hold against it."""
    if not changed_images(image):
        return image
    taken = plan.cohort.make_preprocessing().network_input(torch.from_numpy(image["image"].values))
    return image.assign({INPUT: (image["image"].dims, taken)})


def counterfactuals_in_words(image: xr.Dataset, target: int) -> list[str]:
    """Say what the counterfactuals of one image are like: probability, size, and how much lies in the mask."""
    said = []
    for name in changed_images(image):
        valid = float(image[f"{name}_valid"][target])
        if np.isnan(valid):
            continue
        if not valid:
            said.append(f"{name}: no change was found that turns the prediction")
            continue
        sizes = {str(one[f"{name}_measure"].values): float(one) for one in image[f"{name}_distance"][target]}
        after = float(image[f"{name}_probability"][target])
        inside, area = _inside(image, name, target)
        where = f"; {percent(inside)} of it in the mask, which is {percent(area)} of the image" if area > 0 else ""
        said.append(
            f"{name}: the prediction turns, with {percent(after)} for the target, by a change of L2 {sizes['L2']:.3g}, "
            f"in the latent space {sizes['latent']:.3g}{where}"
        )
    return said


def _inside(image: xr.Dataset, name: str, target: int) -> tuple[float, float]:
    """Compute the share of the change that lies in the mask, and that of the mask in the image; NaN without one."""
    if "mask" not in image or not (mask := image["mask"].values == 1).any():
        return np.nan, np.nan
    change = np.abs(image["attribution"].isel(target=target).sel(explainer=name).values).astype(np.float64)
    return float(change[mask].sum() / change.sum()), float(mask.mean())
