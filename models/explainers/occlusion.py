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
        corners, sides = self._corners(tuple(batch.images.shape[2:]))
        windows = _windows(corners, sides, batch.images)
        hidden = filled(batch.images, self.fill)
        total, cover = batch.zeros(), windows.sum(0)
        scores = batch.scores

        def make(image: Tensor, step: Tensor) -> Tensor:
            return torch.where(windows[step][:, None], hidden[image], batch.images[image])

        def fold(answer: Answer) -> None:
            drop = scores[answer.target, answer.image] - answer.score
            shown = windows[answer.step]
            total[answer.target].index_add_(0, answer.image, per_question(drop, shown) * shown)

        is_whole = batch.network.tiles.is_whole
        ask = AskBoxes(batch.images, corners, sides) if is_whole else plainly
        yield Questions(len(windows), make, fold, ask=ask, key=("occlusion", self.window, self.stride, self.fill))
        return total / cover.clamp_min(1)

    def _corners(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """Find the first place of each window, ``(window, axis)``, and the sides of all windows."""
        sides, strides = (
            (value,) * len(shape) if isinstance(value, int) else value for value in (self.window, self.stride)
        )
        if len(sides) != len(shape) or len(strides) != len(shape):
            raise ConfigurationError(f"window {sides} and stride {strides} must fit an image of {shape}")
        starts = (
            range(0, max(size - side, 0) + stride, stride)
            for size, side, stride in zip(shape, sides, strides, strict=True)
        )
        return torch.tensor(list(product(*starts))), torch.tensor(sides)


def _windows(corners: Tensor, sides: Tensor, images: Tensor) -> Tensor:
    """Mark the places of each window: ``(window, *space)`` bool."""
    windows = torch.zeros(len(corners), *images.shape[2:], dtype=torch.bool, device=images.device)
    for window, corner in zip(windows, corners, strict=True):
        window[tuple(map(slice, corner, corner + sides))] = True
    return windows
