from typing import Literal

from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import ChannelExplainer, strongest_channel
from models.network import Network
from models.questions import Answer, Needs


class Saliency(ChannelExplainer):
    """Gradient of the target's logit with respect to the image (Simonyan et al. 2013, arXiv:1312.6034, section 3).

    ``map[p] = dS/dx[c*, p]`` with ``c*`` the channel of the largest magnitude at ``p``. The sign is kept:
    positive where a brighter pixel raises the logit; the magnitude is the published map.
    """

    requires = GRADIENT

    name: Literal["saliency"] = "saliency"

    def needs(self, network: Network) -> Needs:
        return Needs(input_gradient=True)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return strongest_channel(answer.gradient)

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.gradient
