from collections.abc import Generator
from typing import Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import Attribution, ChannelExplainer, ExplainingInputs
from models.questions import Answer, Batch, Needs, Questions, constant_score, per_question

_FIRST_STEPS = 8


class IntegratedGradients(ChannelExplainer):
    """Integrated gradients (Sundararajan et al. 2017, arXiv:1703.01365, eq. 1), by Gauss-Legendre quadrature.

    ``map = sum_c (x - x0) * sum_s w_s dS/dx(x0 + a_s (x - x0))`` with nodes ``a_s`` and weights ``w_s`` on [0, 1].
    Complete: the map sums to ``S(x) - S(x0)``. With `tolerance`, 8 steps are taken and doubled, for the images whose
    gap ``|sum(map) - (S(x) - S(x0))| / |S(x) - S(x0)|`` is larger, up to `steps`. A record goes along its own straight
    path at the same time, from its baseline: map and record are complete together.
    """

    requires = GRADIENT
    by_gradient_of_record = True

    name: Literal["integrated_gradients"] = "integrated_gradients"
    steps: int = Field(50, ge=1, description="Gradients an image; with a tolerance, the most")
    tolerance: float | None = Field(None, gt=0, description="Relative completeness gap that ends the doubling of steps")
    baseline: float = Field(0.0, description="Value of every pixel of x0, in what the network takes")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        maps, channels = batch.zeros(), batch.zeros(batch.images.shape[1])
        record = batch.record.new_zeros(len(batch.answers), *batch.record.shape)

        def put(values: Tensor, fields: Tensor) -> None:
            maps[:, among], channels[:, among], record[:, among] = values.sum(2), values, fields

        among = torch.arange(len(batch.images), device=batch.images.device)
        if self.tolerance is None:
            put(*(yield from self._integrate(batch, among, self.steps)))
            return Attribution(maps, channels, record)
        difference = batch.scores - (yield from constant_score(batch, self.baseline))
        steps = min(_FIRST_STEPS, self.steps)
        while len(among):
            put(*(yield from self._integrate(batch, among, steps)))
            gap = (maps.flatten(2).sum(-1) + record.sum(-1) - difference).abs() / difference.abs()
            open_images = (gap > self.tolerance).any(0)
            if steps == self.steps:
                break
            among, steps = among[open_images[among]], min(2 * steps, self.steps)
        return Attribution(maps, channels, record)

    def _integrate(self, batch: Batch, among: Tensor, steps: int) -> Generator[Questions, None, tuple[Tensor, Tensor]]:
        nodes, weights = quadrature(steps, batch.images)
        total = batch.zeros(batch.images.shape[1])
        of_record = batch.record.new_zeros(len(batch.answers), *batch.record.shape)

        def make(image: Tensor, step: Tensor) -> Tensor:
            images = batch.images[image]
            return self.baseline + per_question(nodes[step], images) * (images - self.baseline)

        def make_record(image: Tensor, step: Tensor) -> Tensor:
            return batch.reference[image].lerp(batch.record[image], nodes[step][:, None])

        def fold(answer: Answer) -> None:
            weighted = per_question(weights[answer.step], answer.gradient) * answer.gradient
            total[answer.target].index_add_(0, answer.image, weighted)
            weighted = weights[answer.step][:, None] * answer.gradient_of_record
            of_record[answer.target].index_add_(0, answer.image, weighted)

        key = ("path", self.baseline, steps, tuple(among.tolist()))
        needs = Needs(input_gradient=True)
        yield Questions(steps, make, fold, needs, key=key, among=among, make_record=make_record)
        values, fields = (batch.images - self.baseline) * total, (batch.record - batch.reference) * of_record
        return values[:, among], fields[:, among]


def quadrature(steps: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Compute nodes and weights ``(step,)`` of Gauss-Legendre quadrature on [0, 1]."""
    nodes, weights = np.polynomial.legendre.leggauss(steps)
    return torch.as_tensor((nodes + 1) / 2).to(like), torch.as_tensor(weights / 2).to(like)
