"""Statistics that results and the report share."""

import numpy as np
from numpy.typing import NDArray

LEVEL = 0.05
"""The level below which a corrected p counts as significant."""


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """Correct p-values for their number (Holm 1979, Scandinavian Journal of Statistics 6, 65-70).

    The i-th least of m becomes ``max_{j <= i} min(1, (m - j + 1) p_(j))``. NaN stands for a test that was not made, and
    is left out of the number.
    """
    made = np.flatnonzero(~np.isnan(p))
    order = made[np.argsort(p[made], kind="stable")]
    corrected = np.full(p.shape, np.nan)
    corrected[order] = np.minimum(np.maximum.accumulate(p[order] * np.arange(len(order), 0, -1)), 1.0)
    return corrected
