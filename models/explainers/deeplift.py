from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.by_rule import gradients_by_rule
from models.network import Network
from models.questions import Batch, Needs
from models.rules.rescale import AskMultipliers, RescaleMode, require_multipliers
from models.rules.reveal_cancel import RevealCancelMode, require_parts


class DeepLIFT(ChannelExplainer):
    """DeepLIFT (Shrikumar et al. 2017, arXiv:1704.02685, eq. 3 and 11), against a constant image.

    ``map = sum_c (x - x0) * m`` with `m` the multipliers towards ``x0``. It sums to ``S(x) - S(x0)``. By the rule
    `rescale`, an activation is credited to the difference of its argument; by `reveal_cancel` (section 3.5.3), to what
    adds to the argument and to what takes from it, apart: inputs that cancel out are then seen.
    """

    requires = RULES

    name: Literal["deeplift"] = "deeplift"
    baseline: float = Field(0.0, description="Value of every pixel of x0, in what the network takes")
    rule: Literal["rescale", "reveal_cancel"] = Field("rescale", description="How an activation is credited")

    def needs(self, network: Network) -> Needs:
        reference = torch.full_like(network.synthetic(1), self.baseline)
        require_multipliers(network, reference, self._mode)
        if self._mode is RevealCancelMode:
            require_parts(network, reference)
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        multipliers = yield from gradients_by_rule(batch, self._ask(batch.images))
        values = (batch.images - self.baseline) * multipliers
        return values.sum(2), values

    def _ask(self, like: Tensor) -> AskMultipliers:
        reference = torch.full_like(like[:1], self.baseline)
        return AskMultipliers(lambda image, step: reference, self._mode)

    @property
    def _mode(self) -> type[RescaleMode]:
        return {"rescale": RescaleMode, "reveal_cancel": RevealCancelMode}[self.rule]
