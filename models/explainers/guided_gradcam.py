from typing import Literal

import torch

from models.capability import LAYERS, RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels, strongest_channel
from models.explainers.gradcam import GradCAM
from models.explainers.guided_backprop import gradients_by_rule
from models.explainers.looking import LayerExplainer
from models.network import Network
from models.questions import Batch, Needs
from models.rules.relu import guided, require_relu


class GuidedGradCAM(ChannelExplainer, LayerExplainer):
    """Guided Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2): guided backpropagation times Grad-CAM."""

    requires = LAYERS | RULES

    name: Literal["guided_gradcam"] = "guided_gradcam"

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return GradCAM(layer=self.layer).needs(network)

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        gradients = yield from gradients_by_rule(batch, guided)
        gradcam = GradCAM(layer=self.layer)
        cams = torch.stack([gradcam.attribute(answer, batch.network) for answer in batch.answers])
        return cams * strongest_channel(gradients, channel=2), cams[:, :, None] * gradients
