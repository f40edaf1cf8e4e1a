from typing import Literal

import torch
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric, positive


class RelevanceMass(MapMetric):
    """Relevance mass accuracy (Arras et al. 2022, arXiv:2003.07258).

    ``sum_{i in G} R_i / sum_i R_i`` with `R` the positive part of the map: the share that lies in the mask. In [0, 1];
    higher is better. NaN where the mask is empty or nothing is positive.
    """

    family = "plausibility"
    better = "higher"
    range = (0.0, 1.0)
    needs_masks = True
    name: Literal["relevance_mass"] = "relevance_mass"

    def value(self, evaluated: Evaluated) -> Tensor:
        maps, masks = positive(evaluated.maps).double().flatten(1), evaluated.truth.masks.flatten(1)
        total = maps.sum(1)
        return ((maps * masks).sum(1) / total).where(evaluated.truth.there & (total > 0), torch.nan)
