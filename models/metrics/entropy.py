from math import inf
from typing import Literal

import torch
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric


class Entropy(MapMetric):
    """Complexity by entropy (Bhatt et al. 2020, arXiv:2005.00631).

    ``-sum_i p_i ln p_i`` with ``p_i = |R_i| / sum|R|``. In [0, ln N], in nats: 0 for a single place, ln N for a
    constant magnitude; lower is better. NaN for a blank map.
    """

    family = "complexity"
    better = "lower"
    range = (0.0, inf)
    name: Literal["entropy"] = "entropy"

    def value(self, evaluated: Evaluated) -> Tensor:
        magnitude = evaluated.maps.flatten(1).abs().double()
        total = magnitude.sum(1, keepdim=True)
        entropy = torch.special.entr(magnitude / total).sum(1)
        return entropy.where(total[:, 0] > 0, torch.nan)
