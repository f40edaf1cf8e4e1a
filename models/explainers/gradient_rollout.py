from functools import reduce
from typing import Literal

import torch
from torch import Tensor

from models.capability import GRADIENT, LAYERS
from models.explainers.attention_rollout import attention_layers, taken_from_patches
from models.explainers.looking import LookingExplainer
from models.network import Network
from models.questions import Seen


class GradientRollout(LookingExplainer):
    """Attention rollout weighted by gradients (Chefer et al. 2021, arXiv:2103.15679, eq. 5 and 6), for MONAI's ViT.

    ``map = prod_l (I + mean_h relu(A_lh * dS/dA_lh)) - I``: what the class token takes from each patch through all
    layers, where it speaks for the target; without a class token the mean over tokens. Interpolated to the image's
    grid. Never negative.
    """

    requires = LAYERS | GRADIENT

    name: Literal["gradient_rollout"] = "gradient_rollout"

    def watched(self, network: Network) -> tuple[str, ...]:
        return attention_layers(network)

    def look(self, seen: Seen, network: Network) -> Tensor:
        layers = self.watched(network)
        steps = [(seen.activations[layer] * seen.gradients[layer]).relu().mean(1) for layer in layers]
        itself = torch.eye(steps[0].shape[-1]).to(steps[0])
        rollout = reduce(lambda before, step: before + step @ before, steps, itself)
        return taken_from_patches(rollout - itself, seen, network)
