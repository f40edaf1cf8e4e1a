"""Is the model right: ROC, calibration and confusion against the labels, with bootstrap intervals over subjects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray
from scipy.stats import binomtest

from tasks.plan.labels import read_labels
from tasks.report.numbers import interval, with_interval

RESAMPLES = 1000
_SEED = 20261124
GRID = np.linspace(0, 1, 101)
"""The rates of false positives at which ROC curves are given."""

_BINS = 10

Floats = NDArray[np.floating]


@dataclass(frozen=True)
class Estimate:
    """A value with its 95 % interval; NaN where it is undefined, as an interval is of fewer than two subjects."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return with_interval(self.value, self.low, self.high)

    @property
    def interval(self) -> str:
        return interval(self.low, self.high)


@dataclass(frozen=True)
class ClassPerformance:
    """One class against all others.

    Attributes
    ----------
    roc
        The rate of true positives at each of `GRID`.
    """

    name: str
    positive: int
    negative: int
    auc: Estimate
    sensitivity: Estimate
    specificity: Estimate
    roc: tuple[Estimate, ...]


@dataclass(frozen=True)
class Bin:
    """Predictions of about the same probability: its mean, and how many of them come true."""

    probability: float
    share: Estimate
    count: int


@dataclass(frozen=True)
class Performance:
    """Measures of how right the model is on the labelled images.

    Attributes
    ----------
    accuracy
        Of the likeliest class; None where classes do not exclude each other.
    calibration
        Of all classes together, each probability being a prediction.
    calibration_error
        ``sum_b n_b / N |share_b - probability_b|``, the expected calibration error (Naeini et al. 2015).
    confusion
        ``(labelled, predicted)`` images; None where classes do not exclude each other.
    """

    images: int
    subjects: int
    accuracy: Estimate | None
    classes: tuple[ClassPerformance, ...]
    calibration: tuple[Bin, ...]
    calibration_error: Estimate
    confusion: NDArray[np.int64] | None

    @property
    def best_auc(self) -> float:
        """The highest AUC of a class that has one; NaN if none has."""
        return max((one.auc.value for one in self.classes if one.auc.value == one.auc.value), default=np.nan)

    @property
    def hardest(self) -> ClassPerformance:
        """The class of the least AUC; of such that have the same, the last."""
        return min(reversed(self.classes), key=lambda one: (np.isnan(one.auc.value), round(one.auc.value, 9)))


def performance(
    probability: Floats, labels: Sequence[str], subjects: Sequence[str], classes: Sequence[str], exclusive: bool
) -> Performance | None:
    """Hold predictions against labels; None if no label names a class.

    Parameters
    ----------
    probability
        ``(image, class)``.
    labels
        As `tasks.plan.labels.read_labels` reads them; an image whose label is not known is left out.
    subjects
        Whose image each is: resampled as a whole, since images of one subject resemble each other.
    """
    read = read_labels(labels, classes, exclusive)
    truth, known = read.truth[read.known], read.known
    if not truth.any():
        return None
    probability = np.asarray(probability, float)[known]
    groups = np.unique(np.asarray(subjects, str)[known], return_inverse=True)[1]
    predicted = probability.argmax(1)
    decided = np.eye(len(classes), dtype=bool)[predicted] if exclusive else probability >= 0.5
    bins = np.minimum((probability * _BINS).astype(int), _BINS - 1)
    filled = np.unique(bins)

    def overall(weight: Floats) -> Floats:
        flat = np.repeat(weight, len(classes))
        count, true, promised = (
            np.bincount(bins.ravel(), flat * what.ravel(), _BINS) for what in (np.ones_like(truth), truth, probability)
        )
        right = weight @ (decided & truth).any(1) / weight.sum()
        error = np.abs(true - promised).sum() / flat.sum()
        with np.errstate(invalid="ignore"):
            return np.array([right, error, *(true / count)[filled]])

    accuracy, error, *shares = estimates(overall, groups)
    shares = [
        _never_certain(share, _subjects(groups, (bins == number).any(1)))
        for share, number in zip(shares, filled, strict=True)
    ]
    return Performance(
        images=len(truth),
        subjects=int(groups.max()) + 1,
        accuracy=_never_certain(accuracy, int(groups.max()) + 1) if exclusive else None,
        classes=tuple(
            _class(name, probability[:, index], truth[:, index], decided[:, index], groups)
            for index, name in enumerate(classes)
        ),
        calibration=tuple(
            Bin(float(probability[bins == number].mean()), share, int((bins == number).sum()))
            for number, share in zip(filled, shares, strict=True)
        ),
        calibration_error=error,
        confusion=_confusion(truth.argmax(1), predicted, len(classes)) if exclusive else None,
    )


def estimates(statistic: Callable[[Floats], Floats], groups: NDArray[np.intp]) -> list[Estimate]:
    """Values of a statistic, with the 95 % percentile intervals of a bootstrap that draws whole groups.

    Parameters
    ----------
    statistic
        From how often each image counts, ``(image,)``, to values ``(value,)``; NaN where one is undefined.
    groups
        ``(image,)``, numbered from 0.
    """
    values = statistic(np.ones(len(groups)))
    generator, count = np.random.default_rng(_SEED), int(groups.max()) + 1
    drawn = np.array(
        [
            statistic(generator.multinomial(count, np.full(count, 1 / count))[groups].astype(float))
            for _ in range(RESAMPLES)
        ]
    )
    found = []
    for value, column in zip(values, drawn.T, strict=True):
        defined = column[np.isfinite(column)]
        low, high = np.percentile(defined, (2.5, 97.5)) if np.isfinite(value) and len(defined) else (np.nan, np.nan)
        found.append(_of(count, Estimate(float(value), float(low), float(high))))
    return found


def roc(score: Floats, truth: NDArray[np.bool_], weight: Floats) -> tuple[Floats, Floats]:
    """Rates of false and of true positives at every threshold, from the strictest on; both begin with 0."""
    order = np.argsort(-score, kind="stable")
    last = np.append(np.diff(score[order]) != 0, True)  # ties are decided together
    true = np.cumsum(weight[order] * truth[order])[last]
    false = np.cumsum(weight[order] * ~truth[order])[last]
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.append(0, false / false[-1]), np.append(0, true / true[-1])


def _class(
    name: str, score: Floats, truth: NDArray[np.bool_], decided: NDArray[np.bool_], groups: NDArray[np.intp]
) -> ClassPerformance:
    order = np.argsort(-score, kind="stable")
    sorted_score, sorted_truth = score[order], truth[order]

    def numbers(weight: Floats) -> Floats:
        false, true = roc(sorted_score, sorted_truth, weight[order])
        with np.errstate(invalid="ignore", divide="ignore"):
            sensitivity = weight @ (decided & truth) / (weight @ truth)
            specificity = weight @ (~decided & ~truth) / (weight @ ~truth)
        return np.array([np.trapezoid(true, false), sensitivity, specificity, *_at(GRID, false, true)])

    auc, sensitivity, specificity, *curve = estimates(numbers, groups)
    positive, negative = _subjects(groups, truth), _subjects(groups, ~truth)
    return ClassPerformance(
        name=name,
        positive=int(truth.sum()),
        negative=int((~truth).sum()),
        auc=_of(min(positive, negative), auc),
        sensitivity=_never_certain(sensitivity, positive),
        specificity=_never_certain(specificity, negative),
        roc=tuple(_of(min(positive, negative), point) for point in curve),
    )


def _subjects(groups: NDArray[np.intp], among: NDArray[np.bool_]) -> int:
    return len(np.unique(groups[among]))


def _of(subjects: int, estimate: Estimate) -> Estimate:
    """Leave out the interval where there is but one subject, who does not tell how much subjects differ."""
    return estimate if subjects > 1 else replace(estimate, low=np.nan, high=np.nan)


def _never_certain(share: Estimate, subjects: int) -> Estimate:
    """Give a share of 0 or 1, of which every resample is the same, Wilson's interval."""
    if share.value not in (0, 1):
        return _of(subjects, share)
    wilson = binomtest(round(share.value * subjects), subjects).proportion_ci(method="wilson")
    return Estimate(share.value, float(wilson.low), float(wilson.high))


def _at(grid: Floats, false: Floats, true: Floats) -> Floats:
    """The rate of true positives at rates of false ones: on the line between two thresholds, the end of a vertical."""
    if not (np.isfinite(false).all() and np.isfinite(true).all()):
        return np.full_like(grid, np.nan)
    last = np.append(np.diff(false) > 0, True)
    return np.interp(grid, false[last], true[last])


def _confusion(labelled: NDArray[np.intp], predicted: NDArray[np.intp], classes: int) -> NDArray[np.int64]:
    found = np.zeros((classes, classes), np.int64)
    np.add.at(found, (labelled, predicted), 1)
    return found
