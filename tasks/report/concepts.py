"""Concepts: how far each tells, by class, beside random ones."""

from collections.abc import Iterator
from dataclasses import dataclass

import xarray as xr

from models.results import TCAV
from models.results.concepts import FEWEST
from models.results.statistics import LEVEL
from models.results.tcav import ConceptFlag
from tasks.plan.plan import Plan

_WHY = {
    ConceptFlag.TOO_FEW_IMAGES: f"fewer than {FEWEST} images",
    ConceptFlag.TOO_FEW_OTHERS: f"fewer than {2 * FEWEST} other images",
    ConceptFlag.AT_CHANCE: "the layer tells it from other images no better than random ones, at chance",
}


@dataclass(frozen=True)
class Concept:
    """A concept of one result, and the class, score, random score and p of each row that is told.

    Attributes
    ----------
    why
        Why it is no concept; empty where it is one.
    """

    name: str
    accuracy: float
    random_accuracy: float
    why: str
    rows: list[tuple[str, float, float, float]]


@dataclass(frozen=True)
class Concepts:
    """The concepts of one result, by its title, and the layer that tells them apart."""

    title: str
    layer: str
    concepts: list[Concept]
    level: float = LEVEL


def tested_concepts(plan: Plan, dataset: xr.Dataset) -> list[Concepts]:
    """Collect what each `tcav` of the plan has found."""
    results = [planned.result for planned in plan.results if isinstance(planned.result, TCAV)]
    return [
        Concepts(one.title, str(dataset[one.of].attrs["long_name"]), list(_concepts(one.title, dataset)))
        for one in results
    ]


def _concepts(title: str, dataset: xr.Dataset) -> Iterator[Concept]:
    names = [str(name) for name in dataset["class"].values]
    for place, concept in enumerate(dataset[f"{title}_concept"].values):
        own = {
            name: dataset[f"{title}_{name}"].values[place]
            for name in ("score", "random_score", "p", "accuracy", "random_accuracy", "flags")
        }
        rows = zip(names, *(own[name].tolist() for name in ("score", "random_score", "p")), strict=True)
        flags = ConceptFlag(int(own["flags"]))
        yield Concept(
            name=str(concept),
            accuracy=float(own["accuracy"]),
            random_accuracy=float(own["random_accuracy"]),
            why=_WHY[flags] if flags else "",
            rows=[row for row in rows if row[1] == row[1]],
        )
