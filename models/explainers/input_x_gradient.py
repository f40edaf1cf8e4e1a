from typing import Literal

import torch
from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import ChannelExplainer, ExplainingInputs
from models.network import Network
from models.questions import Answer, Batch, Needs


class InputXGradient(ChannelExplainer):
    """Gradient times image, summed over channels (Shrikumar et al. 2016, arXiv:1605.01713).

    ``map[p] = sum_c x[c, p] * dS/dx[c, p]``. Positive where the pixel speaks for the target. Of a record, ``r dS/dr``.
    """

    requires = GRADIENT
    by_gradient_of_record = True

    name: Literal["input_x_gradient"] = "input_x_gradient"

    def needs(self, network: Network) -> Needs:
        return Needs(input_gradient=True)

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        made = yield from super().explain_inputs(batch)
        return made._replace(
            record=torch.stack([answer.record * answer.gradient_of_record for answer in batch.answers])
        )

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return self.attribute_channels(answer, network).sum(1)

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.inputs * answer.gradient
