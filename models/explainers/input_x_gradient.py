from typing import Literal

from torch import Tensor

from models.capability import GRADIENT
from models.explainers.base import ChannelExplainer
from models.network import Network
from models.questions import Answer, Needs


class InputXGradient(ChannelExplainer):
    """Gradient times image, summed over channels (Shrikumar et al. 2016, arXiv:1605.01713).

    ``map[p] = sum_c x[c, p] * dS/dx[c, p]``. Positive where the pixel speaks for the target.
    """

    requires = GRADIENT

    name: Literal["input_x_gradient"] = "input_x_gradient"

    def needs(self, network: Network) -> Needs:
        return Needs(input_gradient=True)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return self.attribute_channels(answer, network).sum(1)

    def attribute_channels(self, answer: Answer, network: Network) -> Tensor:
        return answer.inputs * answer.gradient
