"""Features of an image that are hidden and shown as one: its pixels, or the squares of a grid."""

from dataclasses import dataclass
from math import prod

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.metrics.base import Evaluated, MapMetric
from models.metrics.ranking import drawn_order

_SUM = {2: functional.avg_pool2d, 3: functional.avg_pool3d}


@dataclass(frozen=True)
class Grid:
    """Squares (cubes) of `side` places that cover an image; the last of an axis may be cut off by the edge."""

    shape: tuple[int, ...]
    side: int

    @property
    def sides(self) -> tuple[int, ...]:
        return tuple(-(-size // self.side) for size in self.shape)

    @property
    def count(self) -> int:
        return prod(self.sides)

    def totals(self, maps: Tensor) -> Tensor:
        """Sum ``(image, *space)`` over each square: ``(image, feature)``."""
        if self.side > 1:
            window = [min(self.side, size) for size in self.shape]
            maps = _SUM[len(self.shape)](maps[:, None], window, self.side, ceil_mode=True, divisor_override=1)[:, 0]
        return maps.flatten(1)

    def spread(self, values: Tensor) -> Tensor:
        """Lay ``(question, feature)`` over the places of each square: ``(question, *space)``."""
        values = values.view(-1, *self.sides)
        for axis, size in enumerate(self.shape if self.side > 1 else (), start=1):
            values = values.repeat_interleave(self.side, axis).narrow(axis, 0, size)
        return values


class FeatureMetric(MapMetric):
    """A metric that hides squares of the image."""

    patch: int = Field(8, ge=1, description="Side of the squares hidden as one, in pixels; 1: pixel by pixel")

    def grid(self, evaluated: Evaluated) -> Grid:
        return Grid(tuple(evaluated.batch.images.shape[2:]), self.patch)

    def strength(self, maps: Tensor) -> Tensor:
        """Compute the strength of each place: places are ranked by it, the largest first."""
        return maps

    def ranks(self, evaluated: Evaluated, image: Tensor) -> Tensor:
        """Rank the features for each question, 0 for the strongest: ``(question, feature)``."""
        among, place = image.unique(return_inverse=True)
        strength = self.grid(evaluated).totals(self.strength(evaluated.of(among)))
        return drawn_order(evaluated.batch, among, strength)[place]

    def strongest(self, evaluated: Evaluated, image: Tensor, count: Tensor) -> Tensor:
        """Mark the `count` strongest features of each question: ``(question, 1, *space)`` bool."""
        return self.grid(evaluated).spread(self.ranks(evaluated, image) < count[:, None])[:, None]
