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
        shape = tuple(batch.images.shape[2:])
        starts, sides = self._starts(shape)
        corners = torch.tensor(list(product(*starts)), device=batch.images.device)
        hidden = only_channel(batch.images, filled(batch.images, self.fill), channel)
        total, scores = batch.zeros(), batch.scores
        sums = torch.zeros_like(scores, dtype=torch.float64)

        def make(image: Tensor, step: Tensor) -> Tensor:
            return torch.where(_covered(corners[step], sides, shape)[:, None], hidden[image], batch.images[image])

        def fold(answer: Answer) -> None:
            drop = scores[answer.target, answer.image] - answer.score
            covered = _covered(corners[answer.step], sides, shape)
            total[answer.target].index_add_(0, answer.image, per_question(drop, covered) * covered)
            sums[answer.target].index_add_(0, answer.image, drop.abs().double())

        # Boxes are followed through operations on whole images alone.
        by_boxes = batch.network.tiles.is_whole and not batch.network.fields
        ask: Ask = AskBoxes(batch.images, corners, torch.tensor(sides)) if by_boxes else plainly
        key = ("occlusion", self.window, self.stride, self.fill, channel)
        yield Questions(len(corners), make, fold, ask=ask, key=key)
        for axis, of_axis in enumerate(starts):
            first = torch.tensor(of_axis, device=corners.device)[:, None]
            cover = _covered(first, sides[axis : axis + 1], shape[axis : axis + 1]).sum(0)
            total /= cover.clamp_min(1).view(-1, *[1] * (len(shape) - 1 - axis))
        return total, sums

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
