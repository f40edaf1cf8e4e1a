"""The deviation of maps that were computed in bf16 from those of fp32."""

from collections.abc import Sequence

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from models.engine import Explanation
from models.errors import ConfigurationError
from models.metrics.ranking import spearman
from models.network import Precision

LEAST_RANK_CORRELATION = 0.9
MOST_RELATIVE_L2 = 0.2


def check_instructions(precision: Precision, device: str) -> None:
    """Refuse bf16 on a processor without instructions for it.

    Raises
    ------
    ConfigurationError
        If `device` is such a processor.
    """
    if precision == "bf16" and device == "cpu" and not _has_instructions():
        raise ConfigurationError(
            "precision: this processor has no instructions for bf16, which would take some thirty times as "
            "long as fp32: set fp32, or use GPUs"
        )


def _has_instructions() -> bool:
    return bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


class Deviation(BaseModel):
    """The deviation in medians over maps; single images may differ by more, since a maximum or a sign may flip.

    Attributes
    ----------
    rank_correlation
        Spearman's rank correlation of the values of a map; in [-1, 1].
    relative_l2
        The norm of the difference over the norm of the map in fp32; 0 or more.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank_correlation: float
    relative_l2: float

    @property
    def suffices(self) -> bool:
        return self.rank_correlation >= LEAST_RANK_CORRELATION and self.relative_l2 <= MOST_RELATIVE_L2


def deviation(exact: Explanation, rounded: Explanation, names: Sequence[str]) -> dict[str, Deviation]:
    """Compare two explanations of the same images, explainer by explainer, and their logits.

    Maps that are not finite in fp32, or constant, are left out; an explainer without other maps has no entry.

    Parameters
    ----------
    names
        Names of the explainers that make a map.
    """
    pairs = [("logits", exact.logits[:, None], rounded.logits[:, None])]
    pairs += [(name, exact.maps[:, :, place], rounded.maps[:, :, place]) for place, name in enumerate(names)]
    found = {}
    for name, *both in pairs:
        one, other = (values.flatten(2).flatten(0, 1).double().cpu() for values in both)
        known = _tells(one)
        if known.any():
            rank, relative = _compare(one[known], other[known])
            found[name] = Deviation(rank_correlation=rank, relative_l2=relative)
    return found


def _tells(values: Tensor) -> Tensor:
    """Find the rows whose values are finite, and not all the same."""
    return values.isfinite().all(-1) & (values.amax(-1) > values.amin(-1))


def _compare(exact: Tensor, rounded: Tensor) -> tuple[float, float]:
    """Compute medians over rows; a row that is constant or not finite when rounded counts as the worst."""
    told = _tells(rounded)
    rank = spearman(exact, rounded).where(told, -1.0)
    relative = ((rounded - exact).norm(dim=-1) / exact.norm(dim=-1)).where(told, torch.inf)
    return float(np.median(rank)), float(np.median(relative))
