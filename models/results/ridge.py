"""Ridge regression of a measure on vectors: how well it tells that of other subjects, and along which direction.

It minimises ``|w|^2 + sum_i (y_i - b - w x_i)^2`` over vectors that are brought to the mean square length 1, with
features of equal variance. So no penalty has to be chosen: ``w`` is the most probable one if vectors are expected to
tell as much of the variance of a measure as they leave.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import solve

FOLDS = 5
SHUFFLES = 1999
_RESAMPLES = 2000
_INTERVAL = (2.5, 97.5)

Vectors = NDArray[np.floating[Any]]
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Regression:
    """A regression of a measure.

    Attributes
    ----------
    direction
        ``(feature,)``, the unit vector along which the measure rises; 0 where the vectors are all the same.
    r2, low, high
        Coefficient of determination on subjects that were not seen, at most 1, and its interval of 95 % by bootstrap
        over subjects.
    p
        Share of shuffled measures that reach `r2`, and of this one.
    """

    direction: Floats
    r2: float
    low: float
    high: float
    p: float


NO_REGRESSION = Regression(np.empty(0), np.nan, np.nan, np.nan, np.nan)


def regress(vectors: Vectors, measure: Floats, subjects: Sequence[str]) -> Regression:
    """Regress a measure, ``(image,)``, on vectors, ``(image, feature)``.

    Subjects are dealt out to `FOLDS` folds in turn. A shuffle lays the values of the subjects, one subject after the
    other, onto the images in another order of subjects, so that values of one subject stay together.

    Parameters
    ----------
    subjects
        Whose each image is; at least `FOLDS`.
    """
    owner = _numbered(subjects)
    order = np.argsort(owner, kind="stable")
    exact: Floats = vectors[order].astype(np.float64)
    owner = owner[order]
    measure = (measure[order] - measure.mean()) / measure.std()
    weights = _held_out_weights(exact, owner % FOLDS)
    left = (measure - weights @ measure) ** 2
    r2 = 1 - left.sum() / (measure**2).sum()
    low, high = _interval(measure, left, owner)
    shuffled = measure[_shuffles(owner)].T
    reached = 1 - ((shuffled - weights @ shuffled) ** 2).sum(0) / (measure**2).sum() >= r2
    p = (1 + reached.sum()) / (1 + SHUFFLES)
    return Regression(_direction(exact, measure), float(r2), low, high, float(p))


def _numbered(subjects: Sequence[str]) -> NDArray[np.intp]:
    """Number subjects in the order in which they come."""
    numbers = {name: number for number, name in enumerate(dict.fromkeys(subjects))}
    return np.array([numbers[name] for name in subjects])


def _held_out_weights(vectors: Floats, folds: NDArray[np.intp]) -> Floats:
    """Compute the weights ``(image, image)`` with which measures add up to what is told of each by the other folds."""
    weights = np.zeros((len(vectors), len(vectors)))
    for fold in range(FOLDS):
        own = folds == fold
        seen, unseen = _standardised(vectors[~own], vectors[~own], vectors[own])
        of_deviations = solve(seen @ seen.T + np.eye(len(seen)), seen @ unseen.T, assume_a="pos").T
        weights[np.ix_(own, ~own)] = of_deviations + (1 - of_deviations.sum(1, keepdims=True)) / len(seen)
    return weights


def _direction(vectors: Floats, measure: Floats) -> Floats:
    (seen,) = _standardised(vectors, vectors)
    scale = _deviations(vectors)
    slope = seen.T @ solve(seen @ seen.T + np.eye(len(seen)), measure, assume_a="pos")
    normal = np.divide(slope, scale, out=np.zeros_like(slope), where=scale > 0)
    length = np.linalg.norm(normal)
    return normal / length if length else normal


def _standardised(by: Floats, *others: Floats) -> list[Floats]:
    """Give vectors the mean 0 and features the variance ``1 / feature`` that those of `by` get."""
    middle, scale = by.mean(0), _deviations(by) * np.sqrt(by.shape[1])
    return [np.divide(one - middle, scale, out=np.zeros_like(one), where=scale > 0) for one in others]


def _deviations(vectors: Floats) -> Floats:
    """Compute the deviation of each feature; 0 where it is rounding of a feature that is the same for all."""
    deviations: Floats = vectors.std(0)
    return np.where(deviations > 1e-6 * np.abs(vectors).max(0), deviations, 0)


def _shuffles(owner: NDArray[np.intp]) -> NDArray[np.intp]:
    """Draw the orders of images ``(shuffle, image)`` that lay subjects' values, of numbers that rise, onto others."""
    generator = np.random.default_rng(len(owner))
    subjects = owner[-1] + 1
    return np.array([np.argsort(generator.permutation(subjects)[owner], kind="stable") for _ in range(SHUFFLES)])


def _interval(measure: Floats, left: Floats, owner: NDArray[np.intp]) -> tuple[float, float]:
    """Draw subjects again and again, and take the coefficient of determination of each draw."""
    generator = np.random.default_rng(len(owner))
    sums = np.array([np.bincount(owner, of) for of in (np.ones(len(owner)), measure, measure**2, left)])
    subjects = sums.shape[1]
    drawn = generator.multinomial(subjects, np.full(subjects, 1 / subjects), _RESAMPLES)
    count, total, squares, rest = sums @ drawn.T
    varied = squares - total**2 / count
    r2 = 1 - np.divide(rest, varied, out=np.full(len(rest), np.inf), where=varied > 0)
    low, high = np.percentile(r2, _INTERVAL)
    return float(low), float(high)
