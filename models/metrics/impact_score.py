from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.fill import Fill
from models.metrics.base import Evaluated, Evaluating, Values
from models.metrics.features import FeatureMetric
from models.network import Network
from models.questions import Answer, Questions


class ImpactScore(FeatureMetric):
    """Impact score (Lin et al. 2019, arXiv:1910.07387).

    1 where, without the strongest features, the network decides otherwise or the target's probability falls to no more
    than `falls_to` of what it was; else 0. The mean over images is the published score. In {0, 1}; higher is better.
    """

    family = "faithfulness"
    better = "higher"
    range = (0.0, 1.0)
    name: Literal["impact_score"] = "impact_score"
    share: float = Field(0.1, gt=0, lt=1, description="Share of the features that is hidden")
    falls_to: float = Field(0.5, gt=0, lt=1, description="Share of the probability that counts as an impact")
    fill: Fill = 0.0

    def check(self, network: Network) -> None:
        if network.config.activation == "identity":
            raise ConfigurationError(
                f"{self.title}: the model is a regression (model.activation: identity) and decides nothing"
            )

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        images, filled = evaluated.batch.images, evaluated.explained.filled(self.fill)
        plain = evaluated.batch.answers[evaluated.target]
        count = max(round(self.share * self.grid(evaluated).count), 1)
        impact = evaluated.zeros(1)

        def make(image: Tensor, step: Tensor) -> Tensor:
            strongest = self.strongest(evaluated, image, torch.full_like(image, count))
            return images[image].where(~strongest, filled[image])

        def fold(answer: Answer) -> None:
            if answer.target == evaluated.target:
                otherwise = plain.decided[answer.image] & ~answer.decided
                fallen = answer.probability <= self.falls_to * plain.probability[answer.image]
                impact[answer.image, answer.step] = (otherwise | fallen).double()

        key = ("impact_score", self.patch, self.share, self.fill, evaluated.same)
        yield Questions(1, make, fold, key=key, among=evaluated.among)
        return Values(impact[:, 0])
