"""MMD-critic: cases that stand for others, and cases that they do not stand for.

Kim, Khanna and Koyejo 2016, "Examples are not enough, learn to criticize! Criticism for interpretability", NeurIPS.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_BLOCK = 512
_PAIRED = 1000
_GRAIN = 2.0**32
_SAME = 1e-9


class Chosen(NamedTuple):
    """Rows of prototypes and of criticisms, in the order in which they were chosen, and w of each criticism."""

    prototypes: list[int]
    criticisms: list[int]
    witness: Floats


def evenly(count: int, most: int) -> NDArray[np.intp]:
    """Choose at most so many of `count` places, evenly."""
    return np.arange(count) if count <= most else np.arange(most) * count // most


class Kernel:
    """The kernel ``k(x, y) = exp(-|x - y|^2 / (2 m))`` of cases, rounded to multiples of ``2^-32``.

    ``m`` is the median of ``|x - y|^2`` over pairs of at most 1,000 evenly chosen cases (Gretton et al. 2012, JMLR 13,
    723-773, section 8); 1 where that median is 0. Sums of the rounded values are exact, so that they do not depend on
    the order of the cases.

    Parameters
    ----------
    unit
        Finite `models.results.nearest.directions`, ``(case, feature)``.
    """

    def __init__(self, unit: NDArray[np.float32]) -> None:
        self._unit = unit.astype(np.float64)
        self._squares = np.square(self._unit).sum(1)
        paired = evenly(len(unit), _PAIRED)
        pairs = np.triu_indices(len(paired), 1)
        apart = self._apart(paired)[:, paired][pairs]
        self._median = (float(np.median(apart)) if len(apart) else 0.0) or 1.0

    def __len__(self) -> int:
        return len(self._unit)

    def __getitem__(self, case: int) -> Floats:
        """Compute the values of one case with all, ``(case,)``."""
        return self._values(np.array([case]))[0]

    def sums(self, block: int) -> Floats:
        """Sum the values of each case with all, ``(case,)``."""
        starts = range(0, len(self), block)
        return np.concatenate([self._values(np.arange(len(self))[start : start + block]).sum(1) for start in starts])

    def _values(self, cases: NDArray[np.intp]) -> Floats:
        values: Floats = np.round(np.exp(self._apart(cases) / (-2 * self._median)) * _GRAIN) / _GRAIN
        return values

    def _apart(self, cases: NDArray[np.intp]) -> Floats:
        products = self._unit[cases] @ self._unit.T
        apart: Floats = np.maximum(self._squares[cases, None] + self._squares - 2 * products, 0)
        return apart


def mmd_critic(
    unit: NDArray[np.float32], subjects: Sequence[str], prototypes: int, criticisms: int, block: int = _BLOCK
) -> Chosen:
    """Choose prototypes and criticisms greedily, no two cases of one subject; of equals the case of the lower row.

    Prototypes S maximise ``J(S) = 2 / (n |S|) sum_{x, s in S} k(x, s) - 1 / |S|^2 sum_{s, t in S} k(s, t)`` (equation 5
    and algorithm 1). Criticisms C maximise ``sum_{c in C} |w(c)| + log det k(C, C)`` with the witness function ``w(c) =
    1 / n sum_x k(x, c) - 1 / |S| sum_{s in S} k(s, c)``: above 0 where cases are denser than prototypes.

    Parameters
    ----------
    unit
        Finite `models.results.nearest.directions`, ``(case, feature)``.
    subjects
        One for each case.
    block
        How many cases are compared with all at once. It decides about memory, never about the result.

    Returns
    -------
    Chosen
        Fewer cases than asked for where there are no more subjects, or where all others are the same as a criticism.
    """
    subject = np.unique(np.array(subjects, str), return_inverse=True)[1]
    kernel = Kernel(unit)
    sums = kernel.sums(block)
    free = np.ones(len(kernel), bool)
    standing = _prototypes(kernel, sums, subject, free, prototypes)
    witness = sums / len(kernel) - np.sum([kernel[one] for one in standing], axis=0) / len(standing)
    against = _criticisms(kernel, np.abs(witness), subject, free, criticisms)
    return Chosen(standing, against, witness[against])


def _prototypes(
    kernel: Kernel, sums: Floats, subject: NDArray[np.intp], free: NDArray[np.bool_], count: int
) -> list[int]:
    chosen: list[int] = []
    with_chosen = np.zeros(len(kernel))
    while len(chosen) < count and free.any():
        size = len(chosen) + 1
        near = 2 / (len(kernel) * size) * (sums[chosen].sum() + sums)
        alike = (with_chosen[chosen].sum() + 2 * with_chosen + 1) / size**2
        best = int(np.where(free, near - alike, -np.inf).argmax())
        chosen.append(best)
        with_chosen += kernel[best]
        free &= subject != subject[best]
    return chosen


def _criticisms(
    kernel: Kernel, gain: Floats, subject: NDArray[np.intp], free: NDArray[np.bool_], count: int
) -> list[int]:
    """Choose by a gain of each case and log det k(C, C); `columns` are the Cholesky factor of the kernel."""
    chosen: list[int] = []
    columns: list[Floats] = []
    left = np.ones(len(kernel))
    while len(chosen) < count and (free := free & (left > _SAME)).any():
        best = int(np.where(free, gain + np.log(np.maximum(left, _SAME)), -np.inf).argmax())
        chosen.append(best)
        known = np.sum([column * column[best] for column in columns], axis=0)
        columns.append((kernel[best] - known) / np.sqrt(left[best]))
        left = left - np.square(columns[-1])
        free = free & (subject != subject[best])
    return chosen
