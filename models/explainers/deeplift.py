from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.guided_backprop import gradients_by_rule
from models.network import Network
from models.questions import Batch, Needs
from models.rules.rescale import AskMultipliers, require_multipliers


class DeepLIFT(ChannelExplainer):
    """DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685, eq. 3 and 11), rescale rule, against a constant image.

    ``map = sum_c (x - x0) * m`` with `m` the multipliers towards ``x0``. It sums to ``S(x) - S(x0)``.
    """

    requires = RULES

    name: Literal["deeplift"] = "deeplift"
    baseline: float = Field(0.0, description="Value of every pixel of x0, in what the network takes")

    def needs(self, network: Network) -> Needs:
        require_multipliers(network, torch.full_like(network.synthetic(1), self.baseline))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        multipliers = yield from gradients_by_rule(batch, self._ask(batch.images))
        values = (batch.images - self.baseline) * multipliers
        return values.sum(2), values

    def _ask(self, like: Tensor) -> AskMultipliers:
        reference = torch.full_like(like[:1], self.baseline)
        return AskMultipliers(lambda image, step: reference)
