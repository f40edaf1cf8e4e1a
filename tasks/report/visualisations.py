"""Feature visualisation: the pictures that raise a class or a concept, and curves of measures on the way there."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.results import ClassVisualisation, Visualisation
from tasks.plan.plan import Plan
from tasks.report.anatomy import space_of
from tasks.report.pictures import Panel, case_panels

_AIMS = 8
_SEEDS, _IMAGES = 3, 2
"""The numbers of classes or concepts that are shown, and of starts of either kind."""


@dataclass(frozen=True)
class Climbed:
    """An ascent: the picture at its end, that of the image at its start, if any, and the score of both."""

    start: str
    before: Panel | None
    after: Panel
    first: float
    last: float


@dataclass(frozen=True)
class Curves:
    """By name of the score or a measure, ``(start, step)``; of all starts, of which the first `seeds` are no images."""

    values: dict[str, NDArray[np.floating]]
    seeds: int


@dataclass(frozen=True)
class Visualised:
    """A class or a concept of one result, by its title, with the ascents that are shown, and the curves of all."""

    title: str
    name: str
    score: str
    ascents: list[Climbed]
    curves: Curves


def visualised(plan: Plan, dataset: xr.Dataset, rows: NDArray[np.intp]) -> list[Visualised]:
    """Draw the first classes or concepts of each visualisation of the plan.

    Parameters
    ----------
    dataset
        The explained images.
    rows
        ``(image,)``, the row of each in the store.
    """
    if not len(rows):
        return []
    results = [planned.result for planned in plan.results if isinstance(planned.result, Visualisation)]
    return [one for result in results for one in _of(result, plan, dataset, rows)]


def _of(result: Visualisation, plan: Plan, dataset: xr.Dataset, rows: NDArray[np.intp]) -> Iterator[Visualised]:
    aim, _ = result.aim(plan.frame)
    is_class = isinstance(result, ClassVisualisation)
    score = "output" if plan.model.activation == "identity" else "logit"
    for name in dataset[aim].values[:_AIMS]:
        one = dataset[[name for name in dataset.data_vars if aim in dataset[name].dims]].sel({aim: name}).load()
        ascents = list(_ascents(result, one, dataset, rows))
        if ascents:
            curves = Curves(_curves(result.title, one), result.seeds)
            yield Visualised(result.title, str(name), score if is_class else "activation", ascents, curves)


def _curves(title: str, one: xr.Dataset) -> dict[str, NDArray[np.floating]]:
    measures = one[f"{title}_measure"].mean("channel").transpose(f"{title}_of", ...)
    own = {str(name): values for name, values in zip(measures[f"{title}_of"].values, measures.values, strict=True)}
    return {"score": one[f"{title}_score"].values, **own}


def _ascents(result: Visualisation, one: xr.Dataset, dataset: xr.Dataset, rows: NDArray[np.intp]) -> Iterator[Climbed]:
    title = result.title
    for start in (*range(result.seeds)[:_SEEDS], *range(result.seeds, result.seeds + result.images)[:_IMAGES]):
        scores = one[f"{title}_score"].values[start]
        if not np.isfinite(scores[0]):
            continue
        picture, row = one[title].values[start], int(dataset[f"{title}_row"].values[start])
        peak = np.abs(picture - picture.mean()).max(0)
        like = dataset[["image", "affine"]].isel(image_id=int(np.searchsorted(rows, max(row, rows[0])))).load()
        before = _panel(like, like["image"].values, peak) if row >= 0 else None
        named = str(like["image_id"].values) if row >= 0 else str(one[f"{title}_start"].values[start])
        yield Climbed(named, before, _panel(like, picture, peak), float(scores[0]), float(scores[-1]))


def _panel(like: xr.Dataset, picture: NDArray[np.floating], peak: NDArray[np.floating]) -> Panel:
    """Draw a picture as an image of the store is; of a volume, the slice with the largest value of `peak`."""
    place = xr.DataArray(peak[None, None], dims=("target", "explainer", *space_of(like)))
    drawn = like.assign(image=like["image"].copy(data=picture), attribution=place)
    return case_panels(drawn, 0, [])[0]
