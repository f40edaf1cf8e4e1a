from typing import Literal

import torch
from torch import Tensor

from models.metrics.base import Explained, StackMetric, Values
from models.metrics.ranking import average_ranks, pearson


class ExplainerAgreement(StackMetric):
    """Agreement of an explainer with the others on the same image and target.

    ``mean_{e' != e} rho(R_e, R_e')``, Spearman's rank correlation over places (Neely et al. 2021, arXiv:2105.03287). In
    [-1, 1]; by itself neither is better, as wrong maps can agree. NaN where no other map varies.
    """

    family = "agreement"
    range = (-1.0, 1.0)
    name: Literal["explainer_agreement"] = "explainer_agreement"

    def compare(self, explained: Explained) -> Values:
        matrix = pairwise_spearman(explained.maps)
        apart = ~torch.eye(matrix.shape[-1], dtype=torch.bool, device=matrix.device)
        return Values(matrix.where(apart, torch.nan).nanmean(-1))


class NetworkAgreement(StackMetric):
    """Agreement of an explainer's maps between networks: the members of an ensemble, or draws of dropout (Bykov et al.
    2020, arXiv:2006.09000; Arun et al. 2021, doi:10.1148/ryai.2021200267).

    The mean over all pairs of networks of Spearman's rank correlation over places, this network's map among them. In
    [-1, 1]; higher is better. NaN where no two maps vary.
    """

    family = "agreement"
    better = "higher"
    range = (-1.0, 1.0)
    needs_others = True
    name: Literal["network_agreement"] = "network_agreement"

    def compare(self, explained: Explained) -> Values:
        assert explained.others is not None
        values = []
        for index in range(explained.maps.shape[2]):
            own = explained.maps[:, :, index, None]
            others = explained.others[:, :, :, index].movedim(0, 2).to(own)
            matrix = pairwise_spearman(torch.cat([own, others], dim=2))
            above = torch.ones_like(matrix, dtype=torch.bool).triu(1)
            values.append(matrix.where(above, torch.nan).flatten(2).nanmean(-1))
        return Values(torch.stack(values, dim=-1))


def pairwise_spearman(maps: Tensor) -> Tensor:
    """Correlate ``(image, target, map, *space)`` to ``(..., map, map)``; NaN where either is constant or missing."""
    rows = []
    for image in maps:  # one by one, since ranks take twice the room of the maps
        ranks = average_ranks(image.flatten(2))
        rows.append(torch.stack([pearson(ranks, ranks[:, [index]]) for index in range(ranks.shape[1])], dim=1))
    return torch.stack(rows)
