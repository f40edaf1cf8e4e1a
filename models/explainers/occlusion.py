from collections.abc import Generator
from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.base import Attribution, ChannelExplainer, ExplainingInputs
from models.explainers.fields import ablated_fields
from models.explainers.fill import Fill, filled, only_channel
from models.questions import Answer, Ask, Batch, Questions, per_question, plainly
from models.rules.incremental import AskBoxes

Sides = Annotated[tuple[int, ...], Field(strict=False)]


class Occlusion(ChannelExplainer):
    """Occlusion (Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2).

    ``map[p] = mean over the windows W that cover p of S(x) - S(x without W)``. Positive where hiding the place lowers
    the logit. The last window of an axis ends at the image's edge, cut off where it would stand over. A window is
    hidden in all channels; for the maps of each channel, it is hidden in one channel after the other as well. Of a
    record, each field is taken away by itself.
    """

    name: Literal["occlusion"] = "occlusion"
    window: int | Sides = Field(16, description="Side of the window in pixels, or one an axis")
    stride: int | Sides = Field(8, description="Step of the window in pixels, or one an axis")
    fill: Fill = 0.0

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        (maps, of_image), channels = (yield from self._hide(batch, None)), []
        for channel in range(batch.images.shape[1]) if batch.keeps_channels else ():
            channels.append((yield from self._hide(batch, channel))[0])
        record = yield from ablated_fields(batch)
        return Attribution(maps, torch.stack(channels, dim=2) if channels else None, record, of_image)

    def _hide(self, batch: Batch, channel: int | None) -> Generator[Questions, None, tuple[Tensor, Tensor]]:
        """Hide each window in one channel, or in all; return the maps, and ``sum |drop|``, ``(target, image)``."""
        corners, sides = self._corners(tuple(batch.images.shape[2:]))
        windows = _windows(corners, sides, batch.images)
        hidden = only_channel(batch.images, filled(batch.images, self.fill), channel)
        total, cover = batch.zeros(), windows.sum(0)
        scores = batch.scores
        sums = torch.zeros_like(scores, dtype=torch.float64)

        def make(image: Tensor, step: Tensor) -> Tensor:
            return torch.where(windows[step][:, None], hidden[image], batch.images[image])

        def fold(answer: Answer) -> None:
            drop = scores[answer.target, answer.image] - answer.score
            shown = windows[answer.step]
            total[answer.target].index_add_(0, answer.image, per_question(drop, shown) * shown)
            sums[answer.target].index_add_(0, answer.image, drop.abs().double())

        # Boxes are followed through operations on images alone.
        ask: Ask = plainly if batch.network.fields else AskBoxes(batch.images, corners, sides)
        key = ("occlusion", self.window, self.stride, self.fill, channel)
        yield Questions(len(windows), make, fold, ask=ask, key=key)
        return total / cover.clamp_min(1), sums

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
