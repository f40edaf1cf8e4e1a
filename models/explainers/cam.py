from typing import Literal

from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.base import LayerExplainer, upsample, weighted_sum
from models.network import Network
from models.questions import Answer, Needs


class CAM(LayerExplainer):
    """Class activation map (Zhou et al. 2016, arXiv:1512.04150, eq. 2).

    ``map = sum_k w_k A_k`` with `w` the target's weights in the linear layer that follows the mean over space of the
    layer's features ``A_k``, interpolated to the image's grid. Signed; its mean is the logit without its bias.
    """

    name: Literal["cam"] = "cam"

    def needs(self, network: Network) -> Needs:
        self._linear(network)
        return super().needs(network)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        layer = self._linear(network)
        features, gradients = answer.activations[layer], answer.activation_gradients[layer]
        return upsample(weighted_sum(gradients.flatten(2).sum(-1), features), answer.inputs)

    def _linear(self, network: Network) -> str:
        """Look up the layer; images may have shown after the first check that the head is not linear."""
        layer = network.layer(self.layer)
        if network.linear_head(layer) is None:
            raise ConfigurationError(
                f"the logits of {network.name} are not linear in the mean over space of {layer!r}; use gradcam or "
                "hirescam instead"
            )
        return layer
