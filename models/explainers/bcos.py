from typing import Literal

from torch import Tensor

from models.capability import GRADIENT
from models.errors import ConfigurationError
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.by_rule import gradients_by_rule
from models.network import Network
from models.networks import BcosClassifier
from models.questions import Batch, Needs


class Bcos(ChannelExplainer):
    """Contributions to the logit of a B-cos network (Böhle et al. 2022, arXiv:2205.10268, eq. 12), which are exact.

    ``map[p] = sum_i W_i(e)[p] e_i[p]`` over the pair that the pixel is encoded as, of each channel of the image, where
    ``S = W(e) e``. Positive where the place speaks for the target. The map sums to the logit.
    """

    requires = GRADIENT

    name: Literal["bcos"] = "bcos"

    def needs(self, network: Network) -> Needs:
        if not isinstance(network.module, BcosClassifier):
            raise ConfigurationError(
                f"{network.name} is no B-cos network (models.networks.BcosClassifier with a state dict), so that its "
                "logits are not linear in the image by weights of its own: use integrated_gradients instead"
            )
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        contributions = yield from gradients_by_rule(batch, _linearly)
        return contributions.sum(2), contributions


def _linearly(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    assert isinstance(network.module, BcosClassifier)
    with network.module.explanation_mode():
        return network(inputs)
