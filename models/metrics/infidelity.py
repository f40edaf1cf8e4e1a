from math import inf
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.explainers.fill import Fill
from models.metrics.base import Evaluated, Evaluating, MapMetric, Values
from models.questions import Answer, Questions


class Infidelity(MapMetric):
    """Infidelity (Yeh et al. 2019, arXiv:1901.09392, definition 2.1), with square removal.

    ``mean_B (b sum_{i in B} R_i - (S(x) - S(x without B)))^2`` with `S` the target's logit and `B` squares at random
    places, drawn by the image's name. The map is scaled by the `b` that makes the sum least, as Captum does with
    ``normalize=True``: most maps have no unit. At least 0, in squared logits; lower is better. A map that is zero in
    all squares gets ``mean_B (S(x) - S(x without B))^2``, which no map exceeds.
    """

    family = "faithfulness"
    better = "lower"
    range = (0.0, inf)
    name: Literal["infidelity"] = "infidelity"
    side: int = Field(16, ge=1, description="Side of the squares in pixels")
    squares: int = Field(50, ge=2, description="Squares an image")
    fill: Fill = 0.0

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        batch, filled = evaluated.batch, evaluated.explained.filled(self.fill)
        shape = batch.images.shape[2:]
        side = [min(self.side, size) for size in shape]
        key = ("infidelity", self.side, self.squares, self.fill)
        sums, drops = evaluated.zeros(self.squares), evaluated.zeros(self.squares)

        draws = Draws("squares", batch.ids, batch.images.device)
        rooms = torch.tensor([size - own + 1 for size, own in zip(shape, side, strict=True)])

        def boxes(image: Tensor, step: Tensor) -> Tensor:
            """Mark the square of each question: ``(question, *space)`` bool."""
            found = torch.ones(len(image), *shape, dtype=torch.bool, device=batch.images.device)
            corner = draws.below(rooms, image, step)
            for axis, own in enumerate(side):
                after = torch.arange(shape[axis], device=found.device) - corner[:, axis, None]
                inside = (after >= 0) & (after < own)
                found &= inside.view(-1, *[size if axis == other else 1 for other, size in enumerate(shape)])
            return found

        def make(image: Tensor, step: Tensor) -> Tensor:
            hidden = evaluated.explained.last(key, boxes, image, step)[:, None]
            return filled[image].where(hidden, batch.images[image])

        def fold(answer: Answer) -> None:
            if answer.target == evaluated.target:
                hidden = evaluated.explained.last(key, boxes, answer.image, answer.step)
                sums[answer.image, answer.step] = (evaluated.of(answer.image) * hidden).flatten(1).double().sum(1)
                drops[answer.image, answer.step] = (evaluated.before[answer.image] - answer.score).double()

        yield Questions(self.squares, make, fold, key=key, among=evaluated.explained.among)
        energy = (sums**2).sum(1, keepdim=True)
        scale = (sums * drops).sum(1, keepdim=True) / energy.where(energy > 0, 1.0)
        return Values(((scale * sums - drops) ** 2).mean(1))
