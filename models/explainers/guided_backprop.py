from typing import Literal

from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, strongest_channel
from models.network import Network
from models.questions import Answer, Needs
from models.rules.relu import guided, require_relu


class GuidedBackprop(ChannelExplainer):
    """Guided backpropagation (Springenberg et al. 2014, arXiv:1412.6806, section 3.4).

    The gradient with respect to the image, where every ReLU passes positive values back, at places that were positive
    on the way forward; at each place that of the channel with the largest magnitude, signed. It does not depend on the
    later layers' weights as an explanation should (Adebayo et al. 2018, arXiv:1810.03292).
    """

    requires = RULES

    name: Literal["guided_backprop"] = "guided_backprop"

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return Needs(rules=frozenset({guided}))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return strongest_channel(answer.by_rule[guided])

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.by_rule[guided]
