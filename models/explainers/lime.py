from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.explainers.base import ExplainingInputs
from models.explainers.noise import generator
from models.explainers.supervoxels import SegmentExplainer
from models.questions import Batch


class LIME(SegmentExplainer):
    """LIME over supervoxels (Ribeiro et al. 2016, arXiv:1602.04938, eq. 2), fitted by ridge regression.

    ``map[p]`` is the coefficient of the segment of p at the minimum of ``sum_z pi(z) (S(x_z) - b - beta.z)^2 +
    alpha |beta|^2``, over random `z` where each segment is shown with probability 0.5, ``pi(z) = exp(-d^2 / width^2)``
    and `d` the cosine distance of `z` to all ones. Positive where the segment raises the logit. The fields
    of a record are chosen like segments; hidden, they are at their baseline.
    """

    name: Literal["lime"] = "lime"
    samples: int = Field(1000, ge=1, description="Random choices of segments an image")
    width: float = Field(0.25, gt=0, description="Width of the kernel, in cosine distance")
    alpha: float = Field(1.0, gt=0, description="Ridge penalty of the coefficients")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        shown = [self._draw(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]
        scores = yield from self.answers(batch, pieces, shown)
        return pieces.attribution(list(map(self._fit, shown, scores)))

    def _draw(self, count: int, image_id: str) -> Tensor:
        draws = (torch.rand(count, generator=generator(image_id, "lime", sample)) for sample in range(self.samples))
        return torch.stack(list(draws)) < 0.5

    def _fit(self, shown: Tensor, scores: Tensor) -> Tensor:
        features = shown.double()
        distance = 1 - features.mean(1).sqrt()
        weights = torch.exp(-((distance / self.width) ** 2))
        # The intercept is not penalised: centred features leave it out, whatever the scores' mean.
        features = features - weights @ features / weights.sum()
        weighted = features.T * weights
        penalty = self.alpha * torch.eye(len(weighted), dtype=torch.float64)
        return torch.linalg.solve(weighted @ features + penalty, weighted @ scores.T).T
