from typing import Literal

from pydantic import Field

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.lrp import LRP, ZBox
from models.network import Network
from models.questions import Batch, Needs
from models.rules.relu import require_relu


class DeepTaylor(ChannelExplainer):
    """Deep Taylor decomposition (Montavon et al. 2017, doi:10.1016/j.patcog.2016.11.008, eq. 14 and 16).

    The z-plus rule in every layer and the z-box rule at the input, whose pixels lie in [`low`, `high`]. Relevance is
    summed over channels; it has the sign of the logit everywhere, and sums to it where there are no biases.
    """

    requires = RULES

    name: Literal["deep_taylor"] = "deep_taylor"
    low: float | None = Field(None, description="Smallest value of a pixel; none: of the image")
    high: float | None = Field(None, description="Largest value of a pixel; none: of the image")

    def needs(self, network: Network) -> Needs:
        require_relu(network)
        return self._rules().needs(network)

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        return (yield from self._rules().explain_channels(batch))

    def _rules(self) -> LRP:
        return LRP(composite="z_plus", rules=(ZBox(layers="input", low=self.low, high=self.high),))
