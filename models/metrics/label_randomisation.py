from typing import Literal

from models.metrics.base import Explained, StackMetric, Values
from models.metrics.similarity import similarities, similarities_of_noise


class LabelRandomisation(StackMetric):
    """Label randomisation, the data randomisation test (Adebayo et al. 2018, arXiv:1810.03292, section 5).

    ``mean_o SSIM(R, R_o)`` over the maps ``R_o`` of networks of the same architecture that were trained on shuffled
    labels (`cohortlens train --shuffled`), for the same image and target. Each map is taken to [0, 1] and the data's
    range is 1. In [-1, 1]; lower is better: a map that stays does not tell what relates images to labels. NaN where a
    map is constant or missing.

    The test is only as strong as those networks have learnt their labels by heart: a network that gives every image the
    same output is a random one.

    Companions: `spearman`, the same by rank correlation; `random_ssim` and `random_spearman`, the level to compare
    with, which pairs of maps of noise reach.
    """

    family = "sanity"
    better = "lower"
    range = (-1.0, 1.0)
    needs_others = True
    only_named = True
    companions = ("spearman", "random_ssim", "random_spearman")
    name: Literal["label_randomisation"] = "label_randomisation"

    def compare(self, explained: Explained) -> Values:
        assert explained.others is not None
        maps = explained.maps
        ssim, spearman = (part.mean(-1) for part in similarities(maps, explained.others))
        level = similarities_of_noise(explained)
        random_ssim, random_spearman = (part.expand(maps.shape[:3]) for part in level)
        companions = {"spearman": spearman, "random_ssim": random_ssim, "random_spearman": random_spearman}
        return Values(ssim, companions)
