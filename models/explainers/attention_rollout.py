import math
from functools import reduce
from typing import Any, Literal

import torch
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.explainers.looking import LookingExplainer, upsample
from models.network import Network
from models.questions import Seen

_WEIGHTS = "attn.drop_weights"


class AttentionRollout(LookingExplainer):
    """Attention rollout (Abnar and Zuidema 2020, arXiv:2005.00928, eq. 1), for MONAI's ViT.

    ``map = prod_l norm(mean_h A_lh + I)``, rows summing to 1: what the class token takes from each patch through all
    layers; without a class token the mean over tokens. Interpolated to the image's grid. In [0, 1], the same for every
    target.
    """

    name: Literal["attention_rollout"] = "attention_rollout"

    def watched(self, network: Network) -> tuple[str, ...]:
        return attention_layers(network)

    def look(self, seen: Seen, network: Network) -> Tensor:
        steps = [_with_residual(seen.activations[layer].mean(1)) for layer in self.watched(network)]
        return taken_from_patches(reduce(lambda before, after: after @ before, steps), seen, network)


def _with_residual(attention: Tensor) -> Tensor:
    mixed = attention + torch.eye(attention.shape[-1]).to(attention)
    return mixed / mixed.sum(-1, keepdim=True)


def attention_layers(network: Network) -> tuple[str, ...]:
    """Name the layers whose outputs are attention weights ``(image, head, token, token)``, block by block.

    Raises
    ------
    ConfigurationError
        If the network is not a vision transformer of MONAI, or keeps no weights.
    """
    layers = tuple(name for name, _ in network.module.named_modules() if name.endswith(_WEIGHTS))
    if not layers or not isinstance(_patch_convolution(network), nn.Conv2d | nn.Conv3d):
        raise ConfigurationError(
            f"{type(network.module).__name__} is not a vision transformer of MONAI "
            "(with `proj_type: conv`); use gradcam or integrated_gradients instead"
        )
    if any(network.module.get_submodule(layer.rpartition(".")[0]).use_flash_attention for layer in layers):
        raise ConfigurationError("flash attention keeps no weights; build the network without it")
    return layers


def taken_from_patches(rollout: Tensor, seen: Seen, network: Network) -> Tensor:
    """Make maps ``(image, *space)`` of how much each token takes from each, ``(image, token, token)``.

    The class token's share of each patch counts; without a class token, the mean over tokens.
    """
    sides = _patches(network)
    with_class_token = rollout.shape[-1] == math.prod(sides) + 1
    taken = rollout[:, 0, 1:] if with_class_token else rollout.mean(1)
    return upsample(taken.view(-1, *sides), seen.inputs)


def _patches(network: Network) -> tuple[int, ...]:
    """Count the patches along each axis of the image."""
    sides = _patch_convolution(network).kernel_size
    return tuple(size // side for size, side in zip(network.config.input_shape, sides, strict=True))


def _patch_convolution(network: Network) -> Any:
    return getattr(getattr(network.module, "patch_embedding", None), "patch_embeddings", None)
