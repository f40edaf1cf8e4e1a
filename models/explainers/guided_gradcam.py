from typing import Literal

from torch import Tensor

from models.capability import LAYERS, RULES
from models.explainers.base import ChannelExplainer, strongest_channel
from models.explainers.gradcam import GradCAM
from models.explainers.looking import LayerExplainer
from models.network import Network
from models.questions import Answer, Needs
from models.rules.relu import guided, require_relu


class GuidedGradCAM(ChannelExplainer, LayerExplainer):
    """Guided Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, section 3.2): guided backpropagation times Grad-CAM."""

    requires = LAYERS | RULES

    name: Literal["guided_gradcam"] = "guided_gradcam"

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return self._gradcam.needs(network) | Needs(rules=frozenset({guided}))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return self._gradcam.attribute(answer, network) * strongest_channel(answer.by_rule[guided])

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return self._gradcam.attribute(answer, network)[:, None] * answer.by_rule[guided]

    @property
    def _gradcam(self) -> GradCAM:
        return GradCAM(layer=self.layer)
