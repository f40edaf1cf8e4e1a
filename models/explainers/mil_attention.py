from typing import Literal

from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.looking import LookingExplainer
from models.network import Network
from models.questions import Seen


class MILAttention(LookingExplainer):
    """Attention weights of a bag of slices (Ilse et al. 2018, arXiv:1802.04712, eq. 8), for MONAI's `MILModel`.

    ``map[z, y, x] = softmax_z(attention(h_z))``: each slice's weight, on the whole of the slice. In [0, 1], sums to 1
    over slices, and is the same for every target. `models.networks.bag_of_slices.BagOfSlices` makes a volume a bag.
    """

    name: Literal["mil_attention"] = "mil_attention"

    def look(self, seen: Seen, network: Network) -> Tensor:
        (layer,) = self.watched(network)
        weights = seen.activations[layer].squeeze(-1).softmax(1)
        return weights[..., None, None].expand(-1, -1, *seen.inputs.shape[-2:])

    def watched(self, network: Network) -> tuple[str, ...]:
        bags = [
            name
            for name, module in network.module.named_modules()
            if type(module).__name__ == "MILModel" and len(module.attention)
        ]
        if len(bags) == 1 and network.config.spatial_dims == 3:
            return (f"{bags[0]}.attention".removeprefix("."),)
        raise ConfigurationError(
            f"{type(network.module).__name__} does not hold one MILModel with attention over a volume's slices "
            "(`mil_mode: att` or `att_trans`); use occlusion with windows of one slice instead"
        )
