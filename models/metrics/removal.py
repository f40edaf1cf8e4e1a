"""The common part of metrics that hide an image bit by bit in the order of its map."""

from collections.abc import Generator
from typing import ClassVar

import torch
from pydantic import Field
from torch import Tensor

from models.explainers.fill import Fill
from models.metrics.base import Evaluated, Evaluating, Of, Points, Values, ask, ask_hidden
from models.metrics.features import FeatureMetric, Grid
from models.network import Network
from models.outputs import Frame
from models.questions import Questions


class Removal(FeatureMetric):
    """The area under the curve of the target's probability, or logit, over the share of features hidden or shown."""

    shows: ClassVar[bool] = False
    of: ClassVar[Of] = "probability"

    points: int = Field(20, ge=2, description="Steps from the image as it is to the one that is wholly hidden")
    fill: Fill = 0.0

    def curves(self, frame: Frame, network: Network) -> dict[str, Points]:
        return {self.of: self.points_of(Grid(frame.grid, self.patch))}

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        curve = yield from self.curve(evaluated)
        shares = self.shares(evaluated)
        area = torch.trapezoid(curve, shares.to(curve), dim=1)
        return Values(area, curves={self.of: curve}, points=tuple(shares.tolist()))

    def shares(self, evaluated: Evaluated) -> Tensor:
        """Compute ``(point,)`` shares of the features, from 0 to 1."""
        return torch.tensor(self.points_of(self.grid(evaluated)), dtype=torch.float64)

    def points_of(self, grid: Grid) -> tuple[float, ...]:
        steps = min(self.points, grid.count)
        shares = (torch.arange(steps + 1, dtype=torch.float64) * grid.count / steps).round() / grid.count
        return tuple(shares.tolist())

    def curve(self, evaluated: Evaluated) -> Generator[Questions, None, Tensor]:
        """Ask for ``(image, point)`` answers; at the ends the image is as it is, and wholly hidden."""
        images, filled = evaluated.batch.images, evaluated.explained.filled(self.fill)
        counts = (self.shares(evaluated) * self.grid(evaluated).count).round().to(images.device)

        def make(image: Tensor, step: Tensor) -> Tensor:
            strongest = self.strongest(evaluated, image, counts[step + 1])
            return images[image].where(strongest if self.shows else ~strongest, filled[image])

        hidden = yield from ask_hidden(evaluated, self.fill, self.of)
        key = (self.name, self.patch, self.points, self.fill)
        middle = yield from ask(evaluated, len(counts) - 2, make, key, self.of)
        whole = getattr(evaluated.batch.answers[evaluated.target], self.of)[:, None].double()
        return torch.cat([hidden, middle, whole] if self.shows else [whole, middle, hidden], dim=1)
