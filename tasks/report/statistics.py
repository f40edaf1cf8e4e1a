"""The evidence table: what each metric says of each explainer, how surely, and whether controls do as well."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy import stats
from scipy.sparse import csr_array

from models.results.statistics import holm

ALL_CLASSES = "all"
_CHUNK = 10_000_000

Values = NDArray[np.floating[Any]]


def evidence(
    scores: Mapping[str, Values],
    explainers: Sequence[str],
    classes: NDArray[np.str_],
    patients: Sequence[str],
    controls: Sequence[str],
    resamples: int = 2000,
    seed: int = 0,
) -> pd.DataFrame:
    """Mean of each metric for each explainer, with its 95 % interval, beside the controls.

    Intervals are those of the percentile bootstrap over patients: a drawn patient brings all of their images, as images
    of one patient are alike (Field and Welsh 2007, doi:10.1111/j.1467-9868.2007.00593.x). A control is compared on the
    images where both are defined, by a t-test with errors that are robust to patients (Cameron and Miller 2015,
    doi:10.3368/jhr.50.2.317); its p is no less than the least of a sign test, ``2^(1 - patients)``. The p of all
    comparisons of a class, over explainers, metrics and controls, are corrected by Holm (1979). Controls are not
    compared with each other.

    Parameters
    ----------
    scores
        By metric: ``(image, target, explainer)``, NaN where undefined.
    explainers
        Names along the last axis.
    classes
        ``(image, target)``, the class that each map explains; "" where there is none.
    patients
        ``(image,)``.
    controls
        Which of the explainers are compared with.

    Returns
    -------
    DataFrame
        Indexed by class ("all" first), metric and explainer. `values`, the number of maps, and `patients`; `mean`,
        `low` and `high`; for each control the mean difference ``minus_<control>`` with ``_low`` and ``_high`` and the
        corrected ``p_<control>``, all NaN for the controls themselves; and `differs`, whether all p are below 0.05.

    Raises
    ------
    ValueError
        If a control is not among the explainers, or the shapes do not fit.
    """
    _check(scores, explainers, classes, patients, controls)
    _, patient = np.unique(np.asarray(patients), return_inverse=True)
    of_value = np.repeat(patient, classes.shape[1])
    names = [ALL_CLASSES, *(name for name in np.unique(classes) if name)]
    tables = {}
    for name in names:
        rows = (classes.ravel() != "") if name == ALL_CLASSES else (classes.ravel() == name)
        _, among = np.unique(of_value[rows], return_inverse=True)
        weights = _resampled(int(among.max(initial=-1)) + 1, resamples, seed)
        by_metric = {
            metric: _of_metric(values.reshape(-1, len(explainers))[rows], among, weights, explainers, controls)
            for metric, values in scores.items()
        }
        tables[name] = _corrected(pd.concat(by_metric), controls)
    return pd.concat(tables, names=["class", "metric", "explainer"])


def _of_metric(
    values: Values,
    patient: NDArray[np.intp],
    weights: NDArray[np.uint8],
    explainers: Sequence[str],
    controls: Sequence[str],
) -> pd.DataFrame:
    """The rows of one metric and class, of values ``(value, explainer)``."""
    totals = _Totals(values, patient, weights.shape[1])
    low, high = totals.interval(weights)
    columns: dict[str, NDArray[Any]] = {
        "values": totals.counts.sum(0).astype(int),
        "patients": totals.patients,
        "mean": totals.mean,
        "low": low,
        "high": high,
    }
    for control in controls:
        difference = _Totals(values - values[:, [explainers.index(control)]], patient, weights.shape[1])
        low, high = difference.interval(weights)
        columns |= {
            f"minus_{control}": difference.mean,
            f"minus_{control}_low": low,
            f"minus_{control}_high": high,
            f"p_{control}": difference.p_of_no_difference(),
        }
    table = pd.DataFrame(columns, index=list(explainers))
    table.loc[list(controls), [name for name in columns if name.startswith(("minus_", "p_"))]] = np.nan
    return table


class _Totals:
    """Sums and counts of each patient's values, of which a bootstrap needs no more; each ``(patient, explainer)``."""

    def __init__(self, values: Values, patient: NDArray[np.intp], patients: int) -> None:
        there = ~np.isnan(values)
        shape = (patients, len(values))
        belongs = csr_array((np.ones(len(values)), (patient, np.arange(len(values)))), shape=shape)
        self.sums: NDArray[np.float64] = belongs @ np.where(there, values, 0.0).astype(np.float64)
        self.counts: NDArray[np.float64] = belongs @ there.astype(np.float64)

    @property
    def patients(self) -> NDArray[np.int64]:
        return (self.counts > 0).sum(0)

    @property
    def mean(self) -> NDArray[np.float64]:
        return _ratio(self.sums.sum(0), self.counts.sum(0))

    def interval(self, weights: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Both ends, ``(2, explainer)``; NaN where there are fewer than two patients."""
        step = max(_CHUNK // max(weights.shape[1], 1), 1)
        parts = (weights[start : start + step].astype(np.float64) for start in range(0, len(weights), step))
        means = np.concatenate([_ratio(part @ self.sums, part @ self.counts) for part in parts])
        ends = np.full((2, means.shape[1]), np.nan)
        known = self.patients > 1
        ends[:, known] = np.nanquantile(means[:, known], [0.025, 0.975], axis=0)
        return ends

    def p_of_no_difference(self) -> NDArray[np.float64]:
        """The probability of a mean as far from zero by chance; NaN where there are fewer than two patients."""
        patients = self.patients.astype(float)
        residual = self.sums - self.mean * self.counts
        with np.errstate(divide="ignore", invalid="ignore"):
            error = np.sqrt((residual**2).sum(0) * patients / (patients - 1)) / self.counts.sum(0)
            p = 2 * stats.t.sf(np.abs(self.mean) / error, patients - 1)
        p = np.where(self.mean == 0, 1.0, np.maximum(p, 2 ** (1 - patients)))
        return np.where(patients > 1, p, np.nan)


def _resampled(patients: int, resamples: int, seed: int) -> NDArray[np.uint8]:
    """The number of times that each resample holds each patient: ``(resample, patient)``."""
    generator = np.random.default_rng(seed)
    draws = (generator.integers(patients, size=patients) for _ in range(resamples))
    return np.stack([np.bincount(drawn, minlength=patients).astype(np.uint8) for drawn in draws])


def _corrected(table: pd.DataFrame, controls: Sequence[str]) -> pd.DataFrame:
    columns = [f"p_{control}" for control in controls]
    p = table[columns].to_numpy(np.float64)
    corrected = holm(p.ravel()).reshape(p.shape)
    differs: NDArray[np.bool_] = np.all(corrected < 0.05, axis=1) & bool(controls)
    return table.assign(**dict(zip(columns, corrected.T, strict=True)), differs=differs)


def _ratio(sums: NDArray[np.float64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0)


def _check(
    scores: Mapping[str, Values],
    explainers: Sequence[str],
    classes: NDArray[np.str_],
    patients: Sequence[str],
    controls: Sequence[str],
) -> None:
    unknown = [control for control in controls if control not in explainers]
    if unknown:
        raise ValueError(f"controls {unknown} are not among the explainers {list(explainers)}")
    if not (classes != "").any():
        raise ValueError("no image has a class, so that there is nothing to say of any map")
    if len(patients) != len(classes):
        raise ValueError(f"{len(patients)} patients are given for {len(classes)} images: name one an image")
    for metric, values in scores.items():
        if values.shape != (*classes.shape, len(explainers)):
            raise ValueError(
                f"{metric} is {values.shape}, but classes and explainers need {(*classes.shape, len(explainers))}"
            )
