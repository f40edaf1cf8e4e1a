from typing import Literal

import torch
from pydantic import Field

from models.explainers.base import Explaining, MapExplainer
from models.questions import Batch


class ControlCentre(MapExplainer):
    """A Gaussian at the image's centre: a map that knows neither model nor image, but where photographers aim.

    ``map = exp(-sum_axis ((i - (n - 1) / 2) / (width * n))**2 / 2)`` for an axis of ``n`` pixels. In (0, 1].
    """

    name: Literal["control_centre"] = "control_centre"
    width: float = Field(0.25, gt=0, description="Standard deviation as a share of each side")

    def explain(self, batch: Batch) -> Explaining:
        yield from ()
        shape = batch.images.shape[2:]
        axes = [(torch.arange(size).to(batch.images) - (size - 1) / 2) / (self.width * size) for size in shape]
        distance = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0)
        return torch.exp(-distance / 2).expand(batch.zeros().shape)
