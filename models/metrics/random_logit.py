from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor

from models.draws import Draws
from models.errors import ConfigurationError
from models.metrics.base import Explained, StackMetric, Values
from models.metrics.similarity import similarities, similarities_of_noise
from models.network import Network
from models.questions import Batch
from models.targets import NO_CLASS


class RandomLogit(StackMetric):
    """Random-logit test (Sixt et al. 2020, arXiv:1912.09818).

    ``SSIM(R, R_k)`` with ``R_k`` the map for another class `k` of the same image, which is drawn by the image's name.
    Each map is taken to [0, 1] and the data's range is 1. In [-1, 1]; lower is better: a map that stays does not tell
    what speaks for the class. Of a difference, the class that is explained is replaced, and the one that it is held
    against is not drawn. NaN where a map is constant or missing, and where there is no other class.

    Companions: `spearman`, the same by rank correlation; `random_ssim` and `random_spearman`, the level to compare
    with, which pairs of maps of noise reach.
    """

    family = "sanity"
    better = "lower"
    range = (-1.0, 1.0)
    only_named = True
    companions = ("spearman", "random_ssim", "random_spearman")
    name: Literal["random_logit"] = "random_logit"

    def check(self, network: Network) -> None:
        if len(network.config.classes) < 2:
            raise ConfigurationError(f"{self.title}: the model has one output, and there is no other to explain")

    def compare(self, explained: Explained) -> Values:
        engine, batch, maps = explained.engine, explained.batch, explained.maps
        classes = _others(batch, len(engine.network.config.classes))
        chosen = replace(batch.chosen, classes=classes)
        again = engine.batch(batch.images, batch.ids, chosen=chosen, record=batch.record)
        found = (part[..., 0] for part in similarities(maps, [engine.maps(again)]))
        there = (classes != NO_CLASS).to(maps.device)[..., None]
        ssim, spearman = (part.where(there, torch.nan) for part in found)
        random_ssim, random_spearman = (part.expand(maps.shape[:3]) for part in similarities_of_noise(explained))
        companions = {"spearman": spearman, "random_ssim": random_ssim, "random_spearman": random_spearman}
        return Values(ssim, companions)


def _others(batch: Batch, classes: int) -> Tensor:
    """Draw another class for each target, ``(image, target)``; `NO_CLASS` where there is none."""
    others = torch.full_like(batch.chosen.classes, NO_CLASS)
    draws = Draws("logit", batch.ids)
    for row in range(len(batch.ids)):
        against = [] if batch.chosen.against is None else batch.chosen.against[row].tolist()
        for target, explained in enumerate(batch.chosen.classes[row].tolist()):
            left = [one for one in range(classes) if one not in (explained, *against[target : target + 1])]
            if explained != NO_CLASS and left:
                drawn = draws.below(torch.tensor(len(left)), torch.tensor([row]), explained)
                others[row, target] = left[int(drawn)]
    return others
