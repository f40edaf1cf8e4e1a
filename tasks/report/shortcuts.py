"""Shortcuts: clusters of images that are explained alike, those that hint at one first."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.outputs import Output
from models.results.shortcuts import HINT, LEVEL, ShortcutFlag
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
    flags: list[str]
    is_hint: bool
    panel: Panel | None


@dataclass(frozen=True)
class Alike:
    """The clusters of one result, and the vector by which they are alike."""

    by: str
    clusters: list[Cluster]
    level: float = LEVEL


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
            flags=[str(flag.name).lower().replace("_", " ") for flag in flags],
            is_hint=flags == HINT,
            panel=_panel(dataset[f"{prefix}_map"].values[number], dataset.isel(image_id=rows[:_DRAWN]))
            if f"{prefix}_map" in dataset and not is_slide(dataset)
            else None,
        )


def _panel(mean_map: NDArray[np.float32], drawn: xr.Dataset) -> Panel | None:
    """Draw a mean map over the mean of some of its images."""
    maps = xr.DataArray(mean_map, dims=space_of(drawn)).expand_dims(target=1, explainer=["mean map"])
    mean = xr.Dataset(
        {"image": drawn["image"].mean("image_id"), "attribution": maps, "affine": drawn["affine"][0]}
    ).load()
    panels = case_panels(mean, 0, scales_of([mean["attribution"]]))
    return panels[1] if len(panels) > 1 else None
