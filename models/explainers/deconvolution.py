from typing import Literal

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels, strongest_channel
from models.explainers.guided_backprop import gradients_by_rule
from models.network import Network
from models.questions import Batch, Needs
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
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        gradients = yield from gradients_by_rule(batch, deconvolved)
        return strongest_channel(gradients, channel=2), gradients
