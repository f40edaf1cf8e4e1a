"""Prototypes: the cases that stand for each class, and criticisms, as pictures."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.results import Prototypes
from tasks.plan.plan import Plan
from tasks.report.pictures import Panel
from tasks.report.similar import drawn_alone

_CLASSES = 8
_CASES = 5
"""The numbers of classes, and of prototypes and criticisms of each, that are shown."""


@dataclass(frozen=True)
class StandingCase:
    """A prototype or a criticism: its label, how far it stands for the class, and its picture."""

    id: str
    label: str
    about: str
    panel: Panel


@dataclass(frozen=True)
class OfClass:
    """The first prototypes and criticisms of a class, of one result by its title."""

    title: str
    name: str
    cases: list[StandingCase]


def prototypes_of_classes(plan: Plan, dataset: xr.Dataset, rows: NDArray[np.intp]) -> list[OfClass]:
    """Draw the prototypes and criticisms of the first classes that have any, for each result of the plan.

    Parameters
    ----------
    dataset
        The explained images.
    rows
        ``(image,)``, the row of each in the store.
    """
    found = []
    for result in (planned.result for planned in plan.results if isinstance(planned.result, Prototypes)):
        standing = dataset[f"{result.prefix}_image"].values
        for index in np.flatnonzero((standing >= 0).any(1))[:_CLASSES]:
            cases = list(_cases(result.prefix, dataset, dataset.isel({"class": index}), rows))
            found.append(OfClass(result.title, str(dataset["class"].values[index]), cases))
    return found


def _cases(prefix: str, dataset: xr.Dataset, of_class: xr.Dataset, rows: NDArray[np.intp]) -> Iterator[StandingCase]:
    for kind, number in (("image", "share"), ("criticism", "witness")):
        values = (of_class[f"{prefix}_{name}"].values[:_CASES] for name in (kind, number))
        for row, value in zip(*values, strict=True):
            if row >= 0:
                one, panel = drawn_alone(dataset, rows, int(row))
                about = f"stands for {100 * value:.0f} %" if kind == "image" else _criticised(value)
                yield StandingCase(str(one["image_id"].values), str(one["label"].values), about, panel)


def _criticised(witness: float) -> str:
    return f"criticism, prototypes stand for it too {'little' if witness > 0 else 'much'} ({witness:+.2g})"
