from typing import Literal

import torch
from torch import Tensor

from models.capability import LAYERS
from models.explainers.looking import LayerExplainer, upsample
from models.network import Network
from models.questions import Seen


class EigenCAM(LayerExplainer):
    """Eigen-CAM (Muhammad and Yeasin 2020, arXiv:2008.00299, eq. 2).

    ``map = relu(A v)``, the layer's output projected on its first right singular vector over features. A singular
    vector has no sign of its own: the sign is that with ``sum A v >= 0``. The map is the same for every target. Never
    negative.
    """

    requires = LAYERS

    name: Literal["eigencam"] = "eigencam"

    def look(self, seen: Seen, network: Network) -> Tensor:
        activations = seen.activations[network.layer(self.layer)]
        places = activations.flatten(2).transpose(1, 2)
        direction = torch.linalg.svd(places, full_matrices=False).Vh[:, 0]
        projected = torch.einsum("ipf,if->ip", places, direction)
        projected = projected * torch.where(projected.sum(1, keepdim=True) < 0, -1.0, 1.0)
        return upsample(projected.view(len(places), *activations.shape[2:]).relu(), seen.inputs)
