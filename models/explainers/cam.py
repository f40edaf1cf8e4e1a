from typing import Literal

from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.looking import LayerExplainer, upsample, weighted_sum
from models.network import Network
from models.questions import Seen


class CAM(LayerExplainer):
    """Class activation map (Zhou et al. 2016, arXiv:1512.04150, eq. 2).

    ``map = sum_k w_k A_k`` with `w` the target's weights in the linear layer that follows the mean over space of the
    layer's features ``A_k``, interpolated to the image's grid. Signed; its mean is the logit without its bias.
    """

    name: Literal["cam"] = "cam"

    def look(self, seen: Seen, network: Network) -> Tensor:
        (layer,) = self.watched(network)
        features, gradients = seen.activations[layer], seen.gradients[layer]
        return upsample(weighted_sum(gradients.flatten(2).sum(-1), features), seen.inputs)

    def watched(self, network: Network) -> tuple[str, ...]:
        """Look up the layer; images may have shown after the first check that the head is not linear."""
        layer = network.layer(self.layer)
        if network.linear_head(layer) is None:
            raise ConfigurationError(
                f"the logits of {network.name} are not linear in the mean over space of {layer!r}; use gradcam or "
                "hirescam instead"
            )
        return (layer,)
