from math import inf
from typing import Literal

import torch
from torch import Tensor

from models.capability import WEIGHTS
from models.metrics.base import Explained, StackMetric, Values
from models.metrics.randomisation import explained_by, layers_with_parameters, randomised

_BINS = 100


class EfficientMPRT(StackMetric):
    """Efficient model parameter randomisation test (Hedstrom et al. 2024, arXiv:2401.06465).

    ``(H(R_random) - H(R)) / H(R)`` with ``R_random`` the map for the same target by the wholly random network, the end
    of cascading randomisation, and `H` the entropy of a map's histogram, ``-sum_b p_b ln p_b`` over 100 bins from its
    least to its largest value. At least -1; higher is better: a map that tells what the network has learnt is simpler
    than one of a network that has learnt nothing. NaN where a map is constant or missing.

    Companions: `entropy` and `random_entropy`, the two entropies in nats.
    """

    requires = WEIGHTS

    family = "sanity"
    better = "higher"
    range = (-1.0, inf)
    only_named = True
    companions = ("entropy", "random_entropy")
    name: Literal["efficient_mprt"] = "efficient_mprt"

    def compare(self, explained: Explained) -> Values:
        engine, batch = explained.engine, explained.batch
        network = randomised(batch, layers_with_parameters(engine.network), whole=False)
        random = explained_by(
            network,
            engine,
            lambda anew: anew.maps(anew.batch(batch.images, batch.ids, chosen=batch.chosen, record=batch.record)),
        )
        before, after = (histogram_entropy(maps) for maps in (explained.maps, random.to(explained.maps)))
        return Values((after - before) / before, companions={"entropy": before, "random_entropy": after})


def histogram_entropy(maps: Tensor) -> Tensor:
    """Compute the entropy in nats of the values of ``(image, target, explainer, *space)``; NaN where all are equal."""
    rows = maps.flatten(0, 2).flatten(1).double()
    low, high = rows.amin(1, keepdim=True), rows.amax(1, keepdim=True)
    bins = ((rows - low) / (high - low) * _BINS).nan_to_num(0.0).long().clamp(0, _BINS - 1)
    counts = rows.new_zeros(len(rows), _BINS).scatter_add_(1, bins, torch.ones_like(rows))
    entropy = torch.special.entr(counts / rows.shape[1]).sum(1)
    return entropy.where((high > low)[:, 0], torch.nan).view(maps.shape[:3])
