"""Shortcuts: clusters of images that are explained alike, those that hint at one first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.outputs import COVARIATE, Output
from models.results.shortcuts import ShortcutFlag, hints
from models.results.statistics import LEVEL
from tasks.report.anatomy import space_of
from tasks.report.pictures import Panel, case_panels, scales_of
from tasks.report.slides import is_slide

_DRAWN = 16
"""The number of images whose mean is under a mean map, at most."""


@dataclass(frozen=True)
class Cluster:
    """The numbers of one cluster, NaN where they are not known, and its mean map over its mean image.

    Attributes
    ----------
    covariates
        By name of a covariate, how far its words differ from those of the others, and p.
    flags
        Reasons to look at the cluster, in words.
    panel
        None where vectors are compared.
    """

    number: int
    images: int
    share: float
    label_difference: float
    p: float
    error: float
    covariates: dict[str, tuple[float, float]]
    flags: list[str]
    is_hint: bool
    panel: Panel | None


@dataclass(frozen=True)
class Alike:
    """The clusters of one result, and the vector by which they are alike."""

    by: str
    clusters: list[Cluster]
    level: float = LEVEL

    @property
    def covariates(self) -> list[str]:
        return list(self.clusters[0].covariates) if self.clusters else []


def explained_alike(outputs: Iterable[Output], dataset: xr.Dataset) -> list[Alike]:
    """List the clusters of each result of shortcuts among a store's outputs.

    Parameters
    ----------
    dataset
        The explained images.
    """
    return [
        Alike(str(output.attrs["by"]), list(_clusters(output.name.removesuffix("_cluster"), dataset)))
        for output in outputs
        if "shortcuts" in output.attrs and output.per_image
    ]


def _clusters(prefix: str, dataset: xr.Dataset) -> Iterator[Cluster]:
    of, bits = dataset[f"{prefix}_cluster"].values, dataset[f"{prefix}_flags"].values
    for number in np.unique(of[of >= 0]).tolist():
        share, difference, p, error = (
            float(dataset[f"{prefix}_{name}"].values[number]) for name in ("share", "label_difference", "p", "error")
        )
        rows, flags = np.flatnonzero(of == number), ShortcutFlag(int(bits[number]))
        yield Cluster(
            number=number,
            images=len(rows),
            share=share,
            label_difference=difference,
            p=p,
            error=error,
            covariates=_covariates(prefix, dataset, number),
            flags=[str(flag.name).lower().replace("_", " ") for flag in flags],
            is_hint=bool(hints(bits)[number]),
            panel=_panel(dataset[f"{prefix}_map"].values[number], dataset.isel(image_id=rows[:_DRAWN]))
            if f"{prefix}_map" in dataset and not is_slide(dataset)
            else None,
        )


def _covariates(prefix: str, dataset: xr.Dataset, number: int) -> dict[str, tuple[float, float]]:
    if f"{prefix}_covariate_p" not in dataset:
        return {}
    differences, p = (dataset[f"{prefix}_covariate_{name}"].values[number].tolist() for name in ("difference", "p"))
    names = map(str, dataset[COVARIATE].values)
    return dict(zip(names, zip(differences, p, strict=True), strict=True))


def _panel(mean_map: NDArray[np.float32], drawn: xr.Dataset) -> Panel | None:
    """Draw a mean map over the mean of some of its images."""
    maps = xr.DataArray(mean_map, dims=space_of(drawn)).expand_dims(target=1, explainer=["mean map"])
    mean = xr.Dataset(
        {"image": drawn["image"].mean("image_id"), "attribution": maps, "affine": drawn["affine"][0]}
    ).load()
    panels = case_panels(mean, 0, scales_of([mean["attribution"]]))
    return panels[1] if len(panels) > 1 else None
