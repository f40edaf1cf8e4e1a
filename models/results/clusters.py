"""Clusters of unit vectors, the same whatever the order of rows is."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import fcluster, ward

_MOST = 2000

NOWHERE = -1
"""The cluster of a row that has no vector."""


def clusters(unit: NDArray[np.float32], ids: Sequence[str], most: int) -> NDArray[np.int32]:
    """Group unit vectors by Ward's criterion (Ward 1963, doi:10.1080/01621459.1963.10500845).

    The tree is of at most 2,000 vectors, chosen evenly along the sorted ids; every other vector joins the cluster whose
    mean is nearest.

    Parameters
    ----------
    unit
        ``(row, feature)``; NaN where there is none.
    ids
        One for each row.
    most
        How many clusters there are at most.

    Returns
    -------
    array
        ``(row,)``, numbers from 0 in the order of the first id; -1 where there is no vector.
    """
    found = np.full(len(unit), NOWHERE, np.int32)
    there = np.flatnonzero(np.isfinite(unit).all(1))
    there = there[np.argsort(np.array(ids, str)[there], kind="stable")]
    chosen = there[np.unique(np.linspace(0, len(there) - 1, min(_MOST, len(there))).round().astype(int))]
    if len(chosen) < 2:
        found[there] = 0
        return found
    found[chosen] = fcluster(ward(unit[chosen].astype(np.float64)), most, "maxclust") - 1
    numbers = np.unique(found[chosen])
    centres = np.array([unit[chosen][found[chosen] == one].mean(0) for one in numbers])
    rest = np.setdiff1d(there, chosen)
    # the nearest centre: |u - c|^2 = 1 - 2 u c + |c|^2
    found[rest] = numbers[(2 * unit[rest] @ centres.T - np.square(centres).sum(1)).argmax(1)]
    return _numbered(found, there)


def _numbered(found: NDArray[np.int32], by_id: NDArray[np.intp]) -> NDArray[np.int32]:
    names, first = np.unique(found[by_id], return_index=True)
    place = np.empty(names.max() + 1, np.int32)
    place[names[np.argsort(first)]] = np.arange(len(names))
    return np.where(found >= 0, place[found], np.int32(NOWHERE))


def mean_cosine(unit: NDArray[np.float32], subjects: NDArray[np.str_]) -> float:
    """Compute the mean cosine of pairs of vectors of different subjects, in [-1, 1]; NaN where there is no pair.

    ``(|sum_i u_i|^2 - sum_s |sum_{i in s} u_i|^2) / (n^2 - sum_s n_s^2)``.
    """
    names, of = np.unique(subjects, return_inverse=True)
    sums = np.zeros((len(names), unit.shape[1]))
    np.add.at(sums, of, unit)
    counts = np.bincount(of)
    pairs = counts.sum() ** 2 - np.square(counts).sum()
    return float((np.square(sums.sum(0)).sum() - np.square(sums).sum()) / pairs) if pairs else np.nan
