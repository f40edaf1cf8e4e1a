from typing import Literal

from models.metrics.base import Explained, StackMetric, Values
from models.metrics.similarity import similarities


class Repeatability(StackMetric):
    """Repeatability and reproducibility of maps, between networks (Arun et al. 2021, doi:10.1148/ryai.2021200267).

    ``mean_o SSIM(R, R_o)`` over the maps ``R_o`` of the other networks for the same image: repeatability where they are
    of the same architecture, trained from other seeds; reproducibility where the architecture differs. Each map is
    taken to [0, 1] and the data's range is 1. In [-1, 1]; higher is better. The companion `spearman` is the mean rank
    correlation. NaN where a map is constant or missing.
    """

    family = "robustness"
    better = "higher"
    range = (-1.0, 1.0)
    needs_others = True
    companions = ("spearman",)
    name: Literal["repeatability", "reproducibility"] = "repeatability"

    def compare(self, explained: Explained) -> Values:
        assert explained.others is not None
        ssim, spearman = (part.mean(-1) for part in similarities(explained.maps, explained.others))
        return Values(ssim, companions={"spearman": spearman})
