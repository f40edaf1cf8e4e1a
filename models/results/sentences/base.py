"""The base of sentences: a case with its stored numbers, and what a sentence needs to be said of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.outputs import Frame, Output
from models.prediction import LOGIT, PROBABILITY, TARGET_CLASS
from models.targets import NO_CLASS

TOLD = 3
"""Things of a kind that are told of a case at most, the foremost first: classes, targets, regions, concepts, …"""


@dataclass(frozen=True)
class Case:
    """One image of a store, with the numbers that its sentences are made of.

    Attributes
    ----------
    row
        The row of the image in the store.
    labels
        Of every row; empty where the label is not known.
    explainer
        The explainer whose maps are told of; None where there are no maps.
    values
        By output, the array of the image, or the whole of one without `image_id`.
    """

    row: int
    frame: Frame
    labels: Sequence[str]
    explainer: str | None
    values: Mapping[str, NDArray[Any]]

    def __getitem__(self, name: str) -> NDArray[Any]:
        return self.values[name]

    @property
    def targets(self) -> list[tuple[int, str]]:
        """Number and name of the explained outputs that the image has."""
        there = np.flatnonzero(self[TARGET_CLASS] != NO_CLASS)[:TOLD].tolist()
        return [(target, self._name(target)) for target in there]

    @property
    def maps(self) -> list[tuple[int, str]]:
        """Number of the target, and name, of each map that is told of."""
        return [(target, f"the map of {self.explainer} for {name}") for target, name in self.targets if self.explainer]

    @property
    def is_of_one_class(self) -> bool:
        """Tell whether one class is predicted of the whole image."""
        return self.frame.activation == "softmax" and not self.frame.segments

    @property
    def called(self) -> set[str]:
        """Names of the predicted classes: the likeliest one, or, of independent classes, those over a half."""
        classes = self.frame.classes
        if self.frame.activation == "softmax":
            return {classes[self.foremost[0]]}
        return {classes[index] for index in np.flatnonzero(self[PROBABILITY] >= 0.5)}

    @property
    def foremost(self) -> list[int]:
        """Numbers of the classes, the likeliest first; of a regression, of the outputs in their order."""
        if self.frame.activation == "identity":
            return list(range(len(self.frame.classes)))
        return np.argsort(-self[PROBABILITY if self.frame.segments else LOGIT], kind="stable").tolist()

    def of_map(self, name: str, target: int) -> Any:
        """Look up a value of the map that is told of, in an array ``(target, explainer, ...)``."""
        return self[name][target, self.frame.explainers.index(str(self.explainer))]

    def _name(self, target: int) -> str:
        name = self.frame.targets[target]
        is_rank = name == f"rank {target + 1}"
        return self.frame.classes[int(self[TARGET_CLASS][target])] if is_rank else name


@dataclass(frozen=True)
class Sentence:
    """A sentence that can be said of the cases of a store.

    Attributes
    ----------
    reads
        The outputs that it is made of.
    say
        Says it, once for each target where it is about a target, and nothing where a number is missing.
    """

    reads: tuple[str, ...]
    say: Callable[[Case], Iterator[str]]


def known(*values: Any) -> bool:
    """Tell whether no number is missing."""
    return all(np.isfinite(value).all() for value in values)


Subject = Callable[[Mapping[str, Output]], Iterator[Sentence]]
"""Finds the sentences of one subject, given all outputs of a store, which may lack some that a sentence reads."""
