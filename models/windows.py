"""Windows: an image that is larger than the network's input is taken window by window.

Places and weights are those of MONAI's `SlidingWindowInferer`: windows lie on a grid from the first place on, the last
of an axis ends at the image's edge, and where they overlap their mean counts, by weights. nnU-Net's Gaussian is the
same. Along an axis on which the window is larger, the image is padded by zeros, half of them before it.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from itertools import product
from math import prod
from typing import Annotated, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

Share = Annotated[float, Field(ge=0, lt=1)]


class Top(BaseModel):
    """The mean of the largest logits of each class."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    top: int = Field(ge=1, description="How many windows count")


class Windows(BaseModel):
    """The image of which the network takes one window at once, and how its answers about windows become one."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    image_shape: tuple[int, ...] = Field(
        strict=False,
        min_length=2,
        max_length=3,
        description="[y, x] or [z, y, x] of the image; model.input_shape is that of a window",
    )
    overlap: Share | Annotated[tuple[Share, ...], Field(strict=False)] = Field(
        0.25, description="The share of a window that the next one covers, or one an axis"
    )
    weights: Literal["constant", "gaussian"] = Field(
        "constant", description="How much each place of a window counts where windows overlap"
    )
    sigma_scale: float = Field(0.125, gt=0, description="The Gaussian's deviation, as a share of the window's side")
    pool: Literal["mean", "max"] | Top = Field(
        "mean",
        description="How logits of windows become one of the image, for a network that does not segment: their mean, "
        "the largest of each class, or the mean of the largest, as in `{top: 3}`",
    )

    @property
    def overlaps(self) -> tuple[float, ...]:
        return self.overlap if isinstance(self.overlap, tuple) else (self.overlap,) * len(self.image_shape)

    def starts(self, window: Sequence[int]) -> list[tuple[int, ...]]:
        """Find the first place of each window in the image as it is padded, the last axis fastest."""
        return list(
            product(
                *(
                    _starts(max(side, own), own, overlap)
                    for side, own, overlap in zip(self.image_shape, window, self.overlaps, strict=True)
                )
            )
        )

    def check(self, window: Sequence[int]) -> None:
        """Raise ValueError if the windows do not fit the network's input."""
        if len(self.image_shape) != len(window) or len(self.overlaps) != len(window):
            raise ValueError(
                f"windows.image_shape {list(self.image_shape)} and windows.overlap {self.overlap} need one number for "
                f"each axis of input_shape {list(window)}"
            )
        if min(self.image_shape) < 1:
            raise ValueError(f"windows.image_shape is {list(self.image_shape)}: each side has at least one place")
        count = len(self.starts(window))
        if isinstance(self.pool, Top) and self.pool.top > count:
            raise ValueError(f"windows.pool takes {self.pool.top} windows, but an image has {count}")

    @property
    def is_linear(self) -> bool:
        """True where the logits of an image are linear in those of its windows."""
        return self.pool == "mean"

    def pooled(self, logits: Tensor) -> Tensor:
        """Pool ``(image, window, class)`` to ``(image, class)``."""
        if self.pool == "mean":
            return logits.mean(1)
        return logits.topk(self.pool.top if isinstance(self.pool, Top) else 1, dim=1).values.mean(1)

    def importance(self, window: Sequence[int]) -> Tensor:
        """Compute the weight of each place of a window: at least a thousandth of that of the centre."""
        if self.weights == "constant":
            return torch.ones(*window)
        weights = torch.ones(())
        for side in window:
            places = torch.arange(side) - (side - 1) / 2
            weights = weights[..., None] * torch.exp(-(places**2) / (2 * (self.sigma_scale * side) ** 2))
        return weights.clamp_min(max(float(weights.min()), 1e-3))


def _starts(side: int, window: int, overlap: float) -> list[int]:
    step = max(int(window * (1 - overlap)), 1)
    return [*range(0, side - window, step), side - window]


class Tiles:
    """The windows of images of one shape. They are numbered image by image: ``image * count + window``.

    Parameters
    ----------
    windows
        None: the network takes an image at once, of whatever shape. The image is its only window then.
    window
        The sides of a window.

    Attributes
    ----------
    count
        The number of windows of an image.
    """

    def __init__(self, windows: Windows | None, window: tuple[int, ...]) -> None:
        self.is_whole = windows is None
        self.windows, self.window = windows or Windows(image_shape=window), window
        self.grid = self.windows.image_shape
        self.count = 1 if self.is_whole else len(self.places)
        self._factors: dict[tuple[torch.dtype, torch.device], tuple[Tensor, Tensor]] = {}

    @cached_property
    def places(self) -> list[tuple[slice, ...]]:
        """The places of each window in the image as it is padded."""
        starts = self.windows.starts(self.window)
        return [tuple(slice(at, at + side) for at, side in zip(start, self.window, strict=True)) for start in starts]

    @property
    def padded(self) -> tuple[int, ...]:
        return tuple(map(max, self.grid, self.window))

    def at_once(self, limit: int) -> int:
        """Count the images that have `limit` windows together, at least one."""
        return max(limit // self.count, 1)

    def held_at_once(self, limit: int) -> int:
        """Count the images that take no more memory than `limit` windows, at least one."""
        return max(limit * prod(self.window) // prod(self.grid), 1)

    def pad(self, images: Tensor) -> Tensor:
        """Pad ``(..., *grid)`` by zeros on both sides of the axes along which the window is larger."""
        if self.is_whole or self.padded == self.grid:
            return images
        return functional.pad(images, [part for sides in reversed(self._margins()) for part in sides])

    def crop(self, images: Tensor) -> Tensor:
        """Undo `pad`."""
        if self.is_whole or self.padded == self.grid:
            return images
        for axis, ((before, _), side) in enumerate(zip(self._margins(), self.grid, strict=True)):
            images = images.narrow(axis - len(self.grid), before, side)
        return images

    def _margins(self) -> list[tuple[int, int]]:
        over = [whole - side for whole, side in zip(self.padded, self.grid, strict=True)]
        return [(each // 2, each - each // 2) for each in over]

    def cut(self, padded: Tensor, numbers: Tensor) -> Tensor:
        """Cut windows ``(window, channel, *window)`` out of ``(image, channel, *padded)``."""
        if self.is_whole:
            return padded
        return torch.stack([padded[self._at(number)] for number in numbers.tolist()])

    def some(self, images: Tensor, record: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Cut `count` windows out of ``(image, channel, *grid)``, at even distances, each with its image's record.

        Images that are taken at once stay as they are.
        """
        if self.is_whole:
            return images, record
        numbers = torch.arange(len(images) * self.count)
        numbers = numbers[:: max(1, len(numbers) // count)][:count]
        return self.cut(self.pad(images), numbers), record[numbers // self.count]

    def add(self, total: Tensor, numbers: Tensor, values: Tensor) -> None:
        """Add values ``(window, channel, *window)`` to ``(image, channel, *padded)``, each at its place."""
        for number, value in zip(numbers.tolist(), values, strict=True):
            total[self._at(number)] += value

    def factors(self, like: Tensor, numbers: Tensor) -> Tensor:
        """Look up by how much each place of some windows counts in the whole: ``(window, 1, *window)``, sums to 1."""
        key = like.dtype, like.device
        if key not in self._factors:
            weights, total = self.windows.importance(self.window).to(like), like.new_zeros(1, 1, *self.padded)
            self.add(total, torch.arange(self.count), weights.expand(self.count, 1, *self.window))
            self._factors[key] = weights, total
        weights, total = self._factors[key]
        return weights / self.cut(total, numbers % self.count)

    def touched(self, padded: Tensor, others: Tensor) -> Tensor:
        """Tell which windows of two sets of images ``(image, channel, *padded)`` differ: ``(image * window,)``."""
        found = []
        for image, other in zip(padded, others, strict=True):
            differs = (image != other).any(0)
            found += [differs[place].any() for place in self.places]
        return torch.stack(found)

    def _at(self, number: int) -> tuple[int | slice, ...]:
        image, window = divmod(number, self.count)
        return (image, slice(None), *self.places[window])


@lru_cache(maxsize=4)
def tiles_of(windows: Windows | None, window: tuple[int, ...]) -> Tiles:
    """Make the windows of a network, whose weights are computed once."""
    return Tiles(windows, window)
