from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric, positive


class HitRate(MapMetric):
    """Pointing game (Zhang et al. 2018, doi:10.1007/s11263-017-1059-x).

    1 where the largest value of the map's positive part lies in the mask, or no more than `tolerance_mm` from it; else
    0. The mean over images is the published rate. Where several places have the largest value, it is the share of those
    that hit: so a blank map gets the chance ``|G| / N``. In [0, 1]; higher is better. NaN where the mask is empty or,
    with a tolerance, the spacing is unknown.
    """

    family = "plausibility"
    better = "higher"
    range = (0.0, 1.0)
    needs_masks = True
    name: Literal["hit_rate"] = "hit_rate"
    tolerance_mm: float = Field(0.0, ge=0, description="Distance to the mask that is still a hit")

    @property
    def needs_spacing(self) -> bool:
        return self.tolerance_mm > 0

    def value(self, evaluated: Evaluated) -> Tensor:
        truth, maps = evaluated.truth, positive(evaluated.maps).flatten(1)
        largest = maps == maps.amax(1, keepdim=True)
        if self.needs_spacing:
            distance = truth.distance.flatten(1)
            near, known = distance <= self.tolerance_mm, distance.isfinite().all(1)
        else:
            near, known = truth.masks.flatten(1), truth.there
        share = (largest & near).sum(1) / largest.sum(1)
        return share.where(known, torch.nan)
