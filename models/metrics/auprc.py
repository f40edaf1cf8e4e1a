from typing import Literal

import torch

from models.metrics.base import Evaluated, Evaluating, MapMetric, Values, positive
from models.metrics.ranking import ends_of_ties
from models.sorting import stable_order


class AUPRC(MapMetric):
    """Area under the precision-recall curve, as average precision (Saito and Rehmsmeier 2015,
    doi:10.1371/journal.pone.0118432; for maps: Arun et al. 2021, doi:10.1148/ryai.2021200267).

    ``sum_t (recall_t - recall_{t-1}) precision_t`` over the values `t` of the map's positive part, the largest first.
    In [0, 1]; higher is better. Its companion `chance` is the value of a map of noise, or of a blank one, ``|G| / N``:
    without it the number says nothing, as large findings are easy. NaN where the mask is empty.
    """

    family = "plausibility"
    better = "higher"
    range = (0.0, 1.0)
    needs_masks = True
    companions = ("chance",)
    name: Literal["auprc"] = "auprc"

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        yield from ()
        maps, masks = positive(evaluated.maps).flatten(1), evaluated.truth.masks.flatten(1)
        order = stable_order(maps, descending=True)
        ordered = maps.gather(1, order)
        inside = masks.gather(1, order).double()
        _, last = ends_of_ties(ordered)
        precision = inside.cumsum(1).gather(1, last) / (last + 1)
        average = (inside * precision).sum(1) / inside.sum(1)
        there = evaluated.truth.there
        chance = masks.double().mean(1).where(there, torch.nan)
        return Values(average.where(there, torch.nan), companions={"chance": chance})
