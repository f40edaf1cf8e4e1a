"""How far maps that were computed in bf16 agree with those of fp32."""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.engine import Explanation
from models.metrics.ranking import spearman

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
    for name, *both in pairs:
        one, other = (values.flatten(2).flatten(0, 1).double().cpu() for values in both)
        known = _tells(one)
        if known.any():
            rank, relative = _compare(one[known], other[known])
            found[name] = Agreement(rank_correlation=rank, relative_l2=relative)
    return found


def _tells(values: Tensor) -> Tensor:
    """Of which rows the values are finite, and not all the same."""
    return values.isfinite().all(-1) & (values.amax(-1) > values.amin(-1))


def _compare(exact: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Medians over rows; the worst there is for a row that tells nothing when rounded."""
    told = _tells(rounded)
    rank = spearman(exact, rounded).where(told, -1.0)
    relative = ((rounded - exact).norm(dim=-1) / exact.norm(dim=-1)).where(told, torch.inf)
    return float(np.median(rank)), float(np.median(relative))
