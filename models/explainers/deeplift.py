from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.explainers.base import Explaining, MapExplainer
from models.explainers.guided_backprop import gradients_by_rule
from models.network import Network
from models.questions import Batch, Needs
from models.rules.rescale import AskMultipliers, require_multipliers


class DeepLIFT(MapExplainer):
    """DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685, eq. 3 and 11), rescale rule, against a constant image.

    ``map = sum_c (x - x0) * m`` with `m` the multipliers towards ``x0``. It sums to ``S(x) - S(x0)``.
    """

    name: Literal["deeplift"] = "deeplift"
    baseline: float = Field(0.0, description="Value of every pixel of x0, in what the network takes")

    def needs(self, network: Network) -> Needs:
        require_multipliers(network, torch.full_like(network.synthetic(1), self.baseline))
        return Needs()

    def explain(self, batch: Batch) -> Explaining:
        multipliers = yield from gradients_by_rule(batch, self._ask(batch.images))
        return ((batch.images - self.baseline) * multipliers).sum(2)

    def _ask(self, like: Tensor) -> AskMultipliers:
        reference = torch.full_like(like[:1], self.baseline)
        return AskMultipliers(lambda image, step: reference)
