from typing import Literal

import torch

from models.explainers.base import Explainer, Explaining
from models.explainers.noise import generator
from models.questions import Case


class ControlRandom(Explainer):
    """A map of standard normal noise: what a metric gives to a map that knows neither model nor image."""

    name: Literal["control_random"] = "control_random"

    def explain(self, case: Case) -> Explaining:
        yield from ()
        shape = case.images.shape[2:]
        maps = [torch.randn(shape, generator=generator(name, "control", 0)) for name in case.ids]
        return torch.stack(maps).to(case.images).expand(case.zeros().shape)
