from typing import Literal

import torch
from torch import Tensor

from models.metrics.base import Evaluated, MapMetric, positive


class RelevanceRank(MapMetric):
    """Relevance rank accuracy (Arras et al. 2022, arXiv:2003.07258), which is the Dice coefficient at the mask's
    own area.

    ``|top_K & G| / K`` with ``K = |G|`` and ``top_K`` the `K` largest places of the map's positive part; as ``top_K``
    is as large as `G`, Dice's ``2 |top_K & G| / (|top_K| + |G|)`` is the same number. Places of equal value at the
    limit count by the share of them that is in ``top_K``: so a blank map gets the chance ``|G| / N``. In [0, 1]; higher
    is better. NaN where the mask is empty.
    """

    family = "plausibility"
    better = "higher"
    range = (0.0, 1.0)
    needs_masks = True
    name: Literal["relevance_rank"] = "relevance_rank"

    def value(self, evaluated: Evaluated) -> Tensor:
        maps, masks = positive(evaluated.maps).flatten(1), evaluated.truth.masks.flatten(1)
        area = masks.sum(1)
        limit = maps.sort(1, descending=True).values.gather(1, (area - 1).clamp_min(0)[:, None])
        above, level = maps > limit, maps == limit
        share = (area - above.sum(1)) / level.sum(1)
        hits = (above & masks).sum(1) + share * (level & masks).sum(1)
        return (hits / area).where(evaluated.truth.there, torch.nan)
