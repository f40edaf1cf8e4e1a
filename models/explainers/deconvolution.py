from typing import Literal

from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, strongest_channel
from models.network import Network
from models.questions import Answer, Needs
from models.rules.relu import deconvolved, require_relu


class Deconvolution(ChannelExplainer):
    """Deconvolution (Zeiler and Fergus 2013, arXiv:1311.2901, section 2.1).

    The gradient with respect to the image, where every ReLU passes positive values back, whatever it did on the way
    forward; at each place that of the channel with the largest magnitude, signed.
    """

    requires = RULES

    name: Literal["deconvolution"] = "deconvolution"

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return Needs(rules=frozenset({deconvolved}))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return strongest_channel(answer.by_rule[deconvolved])

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.by_rule[deconvolved]
