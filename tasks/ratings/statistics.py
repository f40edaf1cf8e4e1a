"""Numbers with intervals, over patients."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike
from pydantic import BaseModel, ConfigDict

_RESAMPLES = 2000


class Estimate(BaseModel):
    """A number with its 95 % interval; None where it is not defined."""

    model_config = ConfigDict(frozen=True)

    value: float | None
    low: float | None = None
    high: float | None = None

    @classmethod
    def of(cls, value: float, low: float = np.nan, high: float = np.nan) -> "Estimate":
        found = [float(one) if np.isfinite(one) else None for one in (value, low, high)]
        return cls(value=found[0], low=found[1], high=found[2])


def mean_over_patients(values: ArrayLike, patients: Sequence[str]) -> Estimate:
    """Mean of the values that are not NaN, with the interval of the percentile bootstrap over patients.

    A drawn patient brings all of their values (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). Of fewer
    than two patients there is no interval. Raters are taken as they are: it does not speak of others.
    """
    known = np.asarray(values, float)
    there = np.isfinite(known)
    if not there.any():
        return Estimate.of(np.nan)
    patient = np.unique(np.asarray(patients)[there], return_inverse=True)[1]
    sums, counts = np.bincount(patient, known[there]), np.bincount(patient)
    mean = sums.sum() / counts.sum()
    if len(sums) < 2:
        return Estimate.of(mean)
    drawn = np.random.default_rng(0).multinomial(len(sums), np.full(len(sums), 1 / len(sums)), _RESAMPLES)
    return Estimate.of(mean, *np.quantile((drawn @ sums) / (drawn @ counts), [0.025, 0.975]))
