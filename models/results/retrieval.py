"""Cases and their labels: who may be a neighbour of whom, and how well labels are found again by neighbours."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Cases:
    """Cases that are compared.

    Attributes
    ----------
    subject, label
        ``(case,)``, numbers that are equal where names are; the label is -1 where it is unknown.
    """

    subject: NDArray[np.intp]
    label: NDArray[np.intp]

    @classmethod
    def of(cls, subjects: NDArray[np.str_], labels: NDArray[np.str_]) -> "Cases":
        """Number the names of subjects and labels, both ``(case,)``; an empty label is unknown."""
        subject = np.unique(subjects, return_inverse=True)[1]
        names, label = np.unique(labels, return_inverse=True)
        return cls(subject, np.where(names == "", -1, np.arange(len(names)))[label])

    def are_of_others(self, own: Any, others: Any) -> NDArray[np.bool_]:
        """Tell of `Pairs` whether they are of different subjects."""
        return self.subject[own][:, None] != self.subject[others]

    def have_same_label(self, own: Any, others: Any) -> NDArray[np.bool_]:
        """Tell of `Pairs` of different subjects whether both have the same label."""
        label = self.label[own][:, None]
        return self.are_of_others(own, others) & (label == self.label[others]) & (label >= 0)

    def have_other_label(self, own: Any, others: Any) -> NDArray[np.bool_]:
        """Tell of `Pairs` of different subjects whether both have a label, and not the same."""
        label, other = self.label[own][:, None], self.label[others]
        return self.are_of_others(own, others) & (label != other) & (label >= 0) & (other >= 0)


def precision(near: NDArray[np.int32], cases: Cases) -> Floats:
    """Compute the share of the case's label among the labels of its first neighbours.

    Parameters
    ----------
    near
        ``(case, neighbour)``, numbers of cases, the nearest first; -1 where there is none.

    Returns
    -------
    array
        ``(case, k)``; NaN where the label of the case, or of all its first k neighbours, is unknown.
    """
    labels = np.where(near >= 0, cases.label[near], -1)
    right = (labels == cases.label[:, None]).cumsum(1)
    return _share(right, (labels >= 0).cumsum(1), cases.label[:, None])


def chance(cases: Cases) -> Floats:
    """Compute the share of each case's label among the labels of all cases of other subjects, ``(case,)``."""
    count = len(cases.label)
    labelled = cases.label >= 0
    pair = np.unique(np.stack([cases.subject, cases.label]), axis=1, return_inverse=True)[1].reshape(-1)
    of_label = np.bincount(cases.label + 1, minlength=count + 1)[cases.label + 1]
    own = np.bincount(cases.subject, weights=labelled, minlength=count)[cases.subject]
    return _share(of_label - np.bincount(pair, minlength=count)[pair], labelled.sum() - own, cases.label)


def _share(right: NDArray[np.number], known: NDArray[np.number], label: NDArray[np.intp]) -> Floats:
    shares = np.full(right.shape, np.nan, np.float32)
    np.divide(right, known, out=shares, where=(known > 0) & (label >= 0), casting="unsafe")
    return shares
