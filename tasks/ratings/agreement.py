"""Agreement between raters, beyond what chance would bring about."""

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from tasks.ratings.statistics import Estimate

Counts = NDArray[np.integer]
Chance = Callable[[NDArray[np.float64], NDArray[np.float64]], tuple[NDArray[np.float64], float]]
"""The chance agreement by unit, and of all, from the share of each category by unit and on average."""


def fleiss_kappa(counts: Counts, patients: Sequence[str]) -> Estimate:
    """Fleiss' kappa (1971, doi:10.1037/h0031619) of any number of raters, who need not have rated all.

    ``(p_a - p_e) / (1 - p_e)``, where `p_a` is the share of pairs of raters who agree, and ``p_e = sum_k pi_k^2`` with
    the mean share `pi_k` of a category; with missing ratings as in Gwet (2014, Handbook of Inter-Rater Reliability, 4th
    edition). At most 1; 0 is chance.

    Parameters
    ----------
    counts
        ``(unit, category)``, how many raters chose each.
    patients
        ``(unit,)``: units of one patient are alike, so that the interval is that of the patients.
    """
    return _beyond_chance(counts, patients, lambda share, mean: (share @ mean, float(mean @ mean)))


def gwet_ac1(counts: Counts, patients: Sequence[str]) -> Estimate:
    """Gwet's AC1 (2008, doi:10.1348/000711006X126600), which is not lowered by a category that is frequent.

    As `fleiss_kappa`, with ``p_e = sum_k pi_k (1 - pi_k) / (categories - 1)``.
    """

    def chance(share: NDArray[np.float64], mean: NDArray[np.float64]) -> tuple[NDArray[np.float64], float]:
        rare = (1 - mean) / (len(mean) - 1)
        return share @ rare, float(mean @ rare)

    return _beyond_chance(counts, patients, chance)


def cohen_kappa(first: Sequence[str], second: Sequence[str]) -> Estimate:
    """Cohen's kappa (1960, doi:10.1177/001316446002000104) of two raters who rated the same units.

    It is not defined where both name one category throughout. Its interval is not given: `gwet_ac1` has one.
    """
    categories = sorted({*first, *second})
    one, other = (np.array([[name == category for category in categories] for name in of]) for of in (first, second))
    agree, chance = float((one & other).any(1).mean()), float(one.mean(0) @ other.mean(0))
    return Estimate.of((agree - chance) / (1 - chance) if chance < 1 else np.nan)


def _beyond_chance(counts: Counts, patients: Sequence[str], chance: Chance) -> Estimate:
    """Estimate a coefficient, and its interval by Gwet's linearisation, summed over the units of each patient."""
    rated = counts.sum(1) > 0
    counts, patients = counts[rated], np.asarray(patients)[rated]
    raters = counts.sum(1)
    several = raters > 1
    if not several.any():
        return Estimate.of(np.nan)
    share = counts / raters[:, None]
    agree = (counts * (counts - 1)).sum(1) / np.maximum(raters * (raters - 1), 1)
    by_unit, expected = chance(share, share.mean(0))
    if expected == 1:  # everyone always says the same
        return Estimate.of(np.nan)
    value = (agree[several].mean() - expected) / (1 - expected)
    linear = (agree - expected) * several / several.mean() - 2 * (1 - value) * (by_unit - expected)
    deviation = linear / (1 - expected) - value
    sums = np.bincount(np.unique(patients, return_inverse=True)[1], deviation)
    if len(sums) < 2:
        return Estimate.of(value)
    error = np.sqrt(len(sums) / (len(sums) - 1) * np.square(sums).sum()) / len(counts)
    half = float(stats.t.ppf(0.975, len(sums) - 1)) * error
    return Estimate.of(value, max(value - half, -1.0), min(value + half, 1.0))
