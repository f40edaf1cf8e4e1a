from typing import Literal

import torch

from models.explainers.base import Explaining, MapExplainer
from models.explainers.noise import generator
from models.questions import Batch


class ControlRandom(MapExplainer):
    """A map of standard normal noise: what a metric gives to a map that knows neither model nor image."""

    name: Literal["control_random"] = "control_random"

    def explain(self, batch: Batch) -> Explaining:
        yield from ()
        shape = batch.images.shape[2:]
        maps = [torch.randn(shape, generator=generator(name, "control", 0)) for name in batch.ids]
        return torch.stack(maps).to(batch.images).expand(batch.zeros().shape)
