"""Predictions: the classes that a model says, how sure it is, and whether the labels say so, too."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from tasks.plan.labels import Labels


@dataclass(frozen=True)
class Predictions:
    """The model's predictions of some images, held against their labels.

    Attributes
    ----------
    called, labelled
        ``(image, class)`` bool; `labelled` has no True for an image whose label is unknown.
    known
        ``(image,)`` whether the label is.
    certainty
        ``(image,)`` probability of what is said; NaN where there is none.
    entropy
        ``(image,)`` in bits; NaN where there is none.
    """

    called: NDArray[np.bool_]
    labelled: NDArray[np.bool_]
    known: NDArray[np.bool_]
    certainty: NDArray[np.floating]
    entropy: NDArray[np.floating]

    @property
    def wrong(self) -> NDArray[np.bool_]:
        return self.known & (self.called != self.labelled).any(1)


def held_against(
    labels: Labels,
    probability: NDArray[np.floating] | None,
    activation: Literal["softmax", "sigmoid", "identity"],
) -> Predictions:
    """Hold ``(image, class)`` probabilities against labels; None: the model predicts numbers, and is not wrong."""
    if probability is None:
        unknown = np.full(len(labels.known), np.nan)
        return Predictions(np.zeros_like(labels.truth), labels.truth, np.zeros_like(labels.known), unknown, unknown)
    if activation == "softmax":
        called = np.eye(probability.shape[1], dtype=bool)[probability.argmax(1)]
        certainty = probability.max(1)
    else:
        called = probability >= 0.5
        certainty = np.where(called, probability, 1 - probability).min(1)
    return Predictions(called, labels.truth, labels.known, certainty, entropy(probability, activation))


def entropy(probability: NDArray[np.floating], activation: str) -> NDArray[np.floating]:
    """Entropy in bits of ``(image, class)``; for sigmoid outputs that of the class that is least certain."""
    terms = -probability * np.log2(np.clip(probability, 1e-12, 1))
    if activation == "softmax":
        return terms.sum(1)
    other = 1 - probability
    return (terms - other * np.log2(np.clip(other, 1e-12, 1))).max(1)
