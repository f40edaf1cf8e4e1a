from typing import Literal

import torch
from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import ChannelExplainer, ExplainingInputs, strongest_channel
from models.network import Network
from models.questions import Answer, Batch, Needs


class Saliency(ChannelExplainer):
    """Gradient of the target's logit with respect to the image (Simonyan et al. 2013, arXiv:1312.6034, section 3).

    ``map[p] = dS/dx[c*, p]`` with ``c*`` the channel of the largest magnitude at ``p``. The sign is kept:
    positive where a brighter pixel raises the logit; the magnitude is the published map. Of a record, ``dS/dr``.
    """

    requires = GRADIENT
    by_gradient_of_record = True

    name: Literal["saliency"] = "saliency"

    def needs(self, network: Network) -> Needs:
        return Needs(input_gradient=True)

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        made = yield from super().explain_inputs(batch)
        return made._replace(record=torch.stack([answer.gradient_of_record for answer in batch.answers]))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return strongest_channel(answer.gradient)

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.gradient
