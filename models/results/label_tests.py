"""Tests of how labels inside a group of images differ from those outside, with one vote of each subject."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import fisher_exact

Numbers = NDArray[np.intp]


@dataclass(frozen=True)
class Votes:
    """The votes of subjects: the group and the label that most of a subject's images have; of equals the first.

    Attributes
    ----------
    counts
        Subjects, ``(group, label)``.
    """

    counts: NDArray[np.int64]

    @classmethod
    def of(cls, groups: NDArray[np.integer], labels: NDArray[np.str_], subjects: NDArray[np.str_]) -> "Votes":
        """Count the votes of images, each argument ``(image,)``; an image with an empty label has none."""
        known = labels != ""
        names, label = np.unique(labels[known], return_inverse=True)
        owners, owner = np.unique(subjects[known], return_inverse=True)
        group = groups[known].astype(np.intp)
        counts = np.zeros((int(groups.max(initial=-1)) + 1, len(names)), np.int64)
        np.add.at(counts, (_most(group, owner, len(owners)), _most(label, owner, len(owners))), 1)
        return cls(counts)

    def differences(self) -> NDArray[np.float64]:
        """Compute the total variation between labels in each group and outside, ``(group,)`` in [0, 1]."""
        outside = self.counts.sum(0) - self.counts
        return np.abs(_shares(self.counts) - _shares(outside)).sum(1) / 2

    def p(self) -> NDArray[np.float64]:
        """Compute the two-sided p of each group, ``(group,)``; NaN where no label can differ.

        It is the least of Fisher's exact tests of each label against the others, times the number of tests.
        """
        outside = self.counts.sum(0) - self.counts
        labels = self.counts.shape[1]
        if labels < 2:
            return np.full(len(self.counts), np.nan)
        found = [
            [_fisher(*pair) for pair in zip(own, others, strict=True)]
            for own, others in zip(_against_rest(self.counts), _against_rest(outside), strict=True)
        ]
        tests = 1 if labels == 2 else labels
        p = np.minimum(np.array(found).min(1) * tests, 1)
        made = (self.counts.sum(1) > 0) & (outside.sum(1) > 0)
        return np.where(made, p, np.nan)


def _most(values: Numbers, owners: Numbers, count: int) -> Numbers:
    """Find the commonest value of each owner, ``(owner,)``; of equally common ones the least."""
    if not len(values):
        return np.empty(0, np.intp)
    table = np.zeros((count, values.max() + 1), np.intp)
    np.add.at(table, (owners, values), 1)
    return table.argmax(1)


def _against_rest(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count each label and all others, ``(group, label, 2)``."""
    return np.stack([counts, counts.sum(1, keepdims=True) - counts], axis=-1)


def _fisher(own: NDArray[np.int64], others: NDArray[np.int64]) -> float:
    return float(fisher_exact([own, others])[1])


def _shares(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    total = counts.sum(1, keepdims=True)
    return np.where(total > 0, counts / np.maximum(total, 1), np.nan)
