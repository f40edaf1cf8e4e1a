from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.base import Explaining, MapExplainer
from models.explainers.fill import Fill, filled
from models.questions import Answer, Batch, Questions, per_question, plainly
from models.rules.incremental import AskBoxes

Sides = Annotated[tuple[int, ...], Field(strict=False)]


class Occlusion(MapExplainer):
    """Occlusion (Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2).

    ``map[p] = mean over the windows W that cover p of S(x) - S(x without W)``. Positive where hiding the place lowers
    the logit. The last window of an axis ends at the image's edge, cut off where it would stand over.
    """

    name: Literal["occlusion"] = "occlusion"
    window: int | Sides = Field(16, description="Side of the window in pixels, or one an axis")
    stride: int | Sides = Field(8, description="Step of the window in pixels, or one an axis")
    fill: Fill = 0.0

    def explain(self, batch: Batch) -> Explaining:
        shape = tuple(batch.images.shape[2:])
        starts, sides = self._starts(shape)
        corners = torch.tensor(list(product(*starts)), device=batch.images.device)
        hidden, total, scores = filled(batch.images, self.fill), batch.zeros(), batch.scores

        def make(image: Tensor, step: Tensor) -> Tensor:
            return torch.where(_covered(corners[step], sides, shape)[:, None], hidden[image], batch.images[image])

        def fold(answer: Answer) -> None:
            drop = scores[answer.target, answer.image] - answer.score
            covered = _covered(corners[answer.step], sides, shape)
            total[answer.target].index_add_(0, answer.image, per_question(drop, covered) * covered)

        is_whole = batch.network.tiles.is_whole
        ask = AskBoxes(batch.images, corners, torch.tensor(sides)) if is_whole else plainly
        yield Questions(len(corners), make, fold, ask=ask, key=("occlusion", self.window, self.stride, self.fill))
        for axis, of_axis in enumerate(starts):
            first = torch.tensor(of_axis, device=corners.device)[:, None]
            cover = _covered(first, sides[axis : axis + 1], shape[axis : axis + 1]).sum(0)
            total /= cover.clamp_min(1).view(-1, *[1] * (len(shape) - 1 - axis))
        return total

    def _starts(self, shape: tuple[int, ...]) -> tuple[list[range], tuple[int, ...]]:
        """Find where windows begin along each axis, and the sides of all windows."""
        sides, strides = (
            (value,) * len(shape) if isinstance(value, int) else value for value in (self.window, self.stride)
        )
        if len(sides) != len(shape) or len(strides) != len(shape):
            raise ConfigurationError(f"window {sides} and stride {strides} must fit an image of {shape}")
        starts = [
            range(0, max(size - side, 0) + stride, stride)
            for size, side, stride in zip(shape, sides, strides, strict=True)
        ]
        return starts, sides


def _covered(corners: Tensor, sides: tuple[int, ...], shape: tuple[int, ...]) -> Tensor:
    """Mark the places of windows that begin at `corners` ``(window, axis)``: ``(window, *shape)`` bool."""
    marked = torch.ones(len(corners), *[1] * len(shape), dtype=torch.bool, device=corners.device)
    for axis, (side, size) in enumerate(zip(sides, shape, strict=True)):
        place = torch.arange(size, device=corners.device) - corners[:, axis, None]
        within = (place >= 0) & (place < side)
        marked = marked & within.view(len(corners), *(size if other == axis else 1 for other in range(len(shape))))
    return marked
