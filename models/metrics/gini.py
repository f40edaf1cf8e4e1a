from typing import Literal

import torch
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric
from models.sorting import stable_order


class Gini(MapMetric):
    """Sparsity by the Gini index (Chalasani et al. 2020, arXiv:1810.06583; Hurley and Rickard 2009,
    arXiv:0811.4706).

    ``1 - 2 sum_k |R|_(k) / sum|R| * (N - k + 1/2) / N`` with ``|R|_(k)`` the magnitudes in rising order, k from 1. In
    [0, 1 - 1/N]: 0 for a constant magnitude, the most for a single place; higher is sparser. NaN for a blank map.
    """

    family = "complexity"
    better = "higher"
    range = (0.0, 1.0)
    name: Literal["gini"] = "gini"

    def value(self, evaluated: Evaluated) -> Tensor:
        sizes = evaluated.maps.flatten(1).abs()
        rising = sizes.gather(1, stable_order(sizes)).double()
        count = rising.shape[1]
        weight = (count - torch.arange(1, count + 1).to(rising) + 0.5) / count
        total = rising.sum(1)
        return (1 - 2 * (rising * weight).sum(1) / total).where(total > 0, torch.nan)
