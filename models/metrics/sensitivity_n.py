from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.explainers.fill import Fill
from models.metrics.base import Evaluated, Evaluating, Points, Values
from models.metrics.features import FeatureMetric
from models.metrics.ranking import pearson
from models.network import Network
from models.outputs import Frame
from models.questions import Answer, Questions

Share = Annotated[float, Field(gt=0, lt=1)]


class SensitivityN(FeatureMetric):
    """Sensitivity-n (Ancona et al. 2018, arXiv:1711.06104).

    ``mean_n corr_T(sum_{i in T} R_i, S(x) - S(x without T))`` with `S` the target's logit and `T` random sets of `n`
    features. The sets are drawn by the image's name, independently of the map and of each other; they are not the first
    `n` in its order. So all maps are evaluated by the same answers. In [-1, 1]; higher is better. NaN where the map, or
    the network, gives every set the same.
    """

    family = "faithfulness"
    better = "higher"
    range = (-1.0, 1.0)
    name: Literal["sensitivity_n"] = "sensitivity_n"
    shares: tuple[Share, ...] = Field((0.1, 0.3, 0.5, 0.7), strict=False, description="Sizes n, as shares of all")
    sets: int = Field(50, ge=3, description="Random sets of each size")
    fill: Fill = 0.0

    def curves(self, frame: Frame, network: Network) -> dict[str, Points]:
        return {"correlation": self.shares}

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        batch, grid = evaluated.batch, self.grid(evaluated)
        filled = evaluated.explained.filled(self.fill)
        sizes = (torch.tensor(self.shares) * grid.count).round().clamp(1, max(grid.count - 1, 1))
        size = sizes.repeat_interleave(self.sets).to(batch.images.device)
        draws = Draws("sets", batch.ids, batch.images.device)
        key = ("sensitivity_n", self.patch, self.shares, self.sets, self.fill)
        totals = grid.totals(evaluated.maps)
        sums, drops = evaluated.zeros(len(size)), evaluated.zeros(len(size))

        def hidden(image: Tensor, step: Tensor) -> Tensor:
            return draws.order(grid.count, image, step) < size[step, None]

        def make(image: Tensor, step: Tensor) -> Tensor:
            shown = ~grid.spread(evaluated.explained.last(key, hidden, image, step))[:, None]
            return batch.images[image].where(shown, filled[image])

        def fold(answer: Answer) -> None:
            if answer.target == evaluated.target:
                sets = evaluated.explained.last(key, hidden, answer.image, answer.step)
                sums[answer.image, answer.step] = (totals[answer.image].double() * sets).sum(1)
                drops[answer.image, answer.step] = (evaluated.before[answer.image] - answer.score).double()

        yield Questions(len(size), make, fold, key=key, among=evaluated.explained.among)
        by_size = len(batch.images), len(self.shares), self.sets
        correlation = pearson(sums.view(by_size), drops.view(by_size))
        return Values(correlation.mean(1), curves={"correlation": correlation}, points=self.shares)
