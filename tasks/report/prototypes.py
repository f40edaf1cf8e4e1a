"""Prototypes: the cases that stand for each class, and criticisms, as pictures."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.results import Prototypes
from tasks.plan.plan import Plan
from tasks.report.numbers import number
from tasks.report.shown import Group, Shown, show_alone

_CLASSES = 8
_CASES = 5
"""The numbers of classes, and of prototypes and criticisms of each, that are shown."""


def prototypes_of_classes(plan: Plan, dataset: xr.Dataset, rows: NDArray[np.intp]) -> list[Group]:
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
            found.append(Group(result.title, str(dataset["class"].values[index]), cases))
    return found


def _cases(prefix: str, dataset: xr.Dataset, of_class: xr.Dataset, rows: NDArray[np.intp]) -> Iterator[Shown]:
    for kind, measure in (("image", "share"), ("criticism", "witness")):
        values = (of_class[f"{prefix}_{name}"].values[:_CASES] for name in (kind, measure))
        for row, value in zip(*values, strict=True):
            if row >= 0:
                about = f"stands for {100 * value:.0f} %" if kind == "image" else _criticised(value)
                yield show_alone(dataset, rows, int(row), about)


def _criticised(witness: float) -> str:
    stand = "little" if witness > 0 else "much"
    return f"criticism, prototypes stand for it too {stand} ({number(witness, '.2g', sign='+')})"
