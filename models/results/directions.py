"""Directions that tell some vectors from others: the normals of linear classifiers, and how well these do."""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.special import expit

Classifier = Literal["logistic", "mean_difference"]
Vectors = NDArray[np.floating[Any]]

CHANCE = 0.5


def direction(ours: Vectors, others: Vectors, classifier: Classifier) -> tuple[NDArray[np.float64], float]:
    """Fit a linear classifier of ``(vector, feature)``, positive for ours.

    Returns
    -------
    tuple
        The unit vector ``w`` normal to its boundary, and the offset ``b``: ``w x > b`` stands for ours. Where there is
        nothing to tell them by, ``w`` is 0.
    """
    ours, others = ours.astype(np.float64), others.astype(np.float64)
    middle = (ours.mean(0) + others.mean(0)) / 2
    if classifier == "mean_difference":
        normal, offset = ours.mean(0) - others.mean(0), 0.0
    else:
        normal, offset = _logistic(ours - middle, others - middle)
    length = float(np.linalg.norm(normal))
    unit = normal / length if length else normal
    return unit, float(unit @ middle) + (offset / length if length else 0.0)


def _logistic(ours: Vectors, others: Vectors) -> tuple[NDArray[np.float64], float]:
    """Minimise ``|w|^2 / 2 + sum_i log(1 + exp(-y_i (w x_i - b)))`` over vectors whose mean square length is made 1."""
    vectors = np.concatenate([ours, others])
    scale = float(np.sqrt((vectors**2).sum(1).mean()))
    if not scale:
        return np.zeros(vectors.shape[1]), 0.0
    vectors = np.column_stack([vectors / scale, np.full(len(vectors), -1.0)])
    is_ours = np.arange(len(vectors)) < len(ours)
    signs = np.where(is_ours, 1.0, -1.0)

    def loss(weights: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
        margins = signs * (vectors @ weights)
        penalised = np.append(weights[:-1], 0.0)
        gradient = penalised - (signs * expit(-margins)) @ vectors
        return float(penalised @ penalised / 2 + np.logaddexp(0, -margins).sum()), gradient

    found = minimize(loss, np.zeros(vectors.shape[1]), jac=True, method="L-BFGS-B").x
    return found[:-1], float(found[-1]) * scale


def held_out_accuracy(
    ours: Vectors, others: Vectors, subjects: tuple[Sequence[str], Sequence[str]], classifier: Classifier
) -> float:
    """Measure how well vectors of subjects that a classifier has not seen are told apart.

    The subjects are dealt out in two halves in turn, those of ours first; each half is told apart by a direction of the
    other. The accuracy is the mean of the shares that are right, of ours and of others; it is `CHANCE` where a half
    lacks one of them.

    Parameters
    ----------
    subjects
        Whose each vector is, of ours and of others.
    """
    of_ours, of_others = (np.asarray(names) for names in subjects)
    places = {name: place for place, name in enumerate(dict.fromkeys([*subjects[0], *subjects[1]]))}
    half, other_half = (np.array([places[name] % 2 for name in names], bool) for names in (of_ours, of_others))
    if half.all() or not half.any() or other_half.all() or not other_half.any():
        return CHANCE
    right_of_ours, right_of_others = np.empty(len(ours), bool), np.empty(len(others), bool)
    for seen in (False, True):
        normal, offset = direction(ours[half == seen], others[other_half == seen], classifier)
        right_of_ours[half != seen] = ours[half != seen] @ normal > offset
        right_of_others[other_half != seen] = others[other_half != seen] @ normal <= offset
    return float((right_of_ours.mean() + right_of_others.mean()) / 2)
