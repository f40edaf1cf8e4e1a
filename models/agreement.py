"""How far maps that were computed in bf16 agree with those of fp32."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from scipy.stats import rankdata

from models.engine import Explanation

LEAST_RANK_CORRELATION = 0.9
MOST_RELATIVE_L2 = 0.2


class Agreement(BaseModel):
    """Medians over maps; single images may differ by more, since a maximum or a sign may flip.

    Attributes
    ----------
    rank_correlation
        Spearman's, of the values of a map; in [-1, 1].
    relative_l2
        Norm of the difference over the norm of the map in fp32; 0 or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank_correlation: float
    relative_l2: float

    @property
    def suffices(self) -> bool:
        return self.rank_correlation >= LEAST_RANK_CORRELATION and self.relative_l2 <= MOST_RELATIVE_L2


def agreement(exact: Explanation, rounded: Explanation, names: Sequence[str]) -> dict[str, Agreement]:
    """Compare two explanations of the same images, explainer by explainer, and their logits.

    Maps that are not finite in fp32, or constant, are left out; of an explainer without any other, nothing is said.

    Parameters
    ----------
    names
        Of the explainers that make a map.
    """
    pairs = [("logits", exact.logits[:, None], rounded.logits[:, None])]
    pairs += [(name, exact.maps[:, :, place], rounded.maps[:, :, place]) for place, name in enumerate(names)]
    found = {}
    for name, one, other in pairs:
        known = [_compare(*pair) for pair in zip(_rows(one), _rows(other), strict=True) if _counts(pair[0])]
        if known:
            rank, relative = np.median(known, axis=0)
            found[name] = Agreement(rank_correlation=float(rank), relative_l2=float(relative))
    return found


def _rows(values: torch.Tensor) -> NDArray[np.float64]:
    return values.flatten(2).flatten(0, 1).double().cpu().numpy()


def _counts(values: NDArray[np.float64]) -> bool:
    return bool(np.isfinite(values).all() and np.ptp(values) > 0)


def _compare(exact: NDArray[np.float64], rounded: NDArray[np.float64]) -> tuple[float, float]:
    if not _counts(rounded):
        return -1.0, np.inf
    rank = np.corrcoef(rankdata(exact), rankdata(rounded))[0, 1]
    return float(rank), float(np.linalg.norm(rounded - exact) / np.linalg.norm(exact))
