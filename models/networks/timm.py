"""Networks of timm (PyTorch Image Models) that classify images, or give features of them."""

import re
from typing import Any

from torch import nn

from models.errors import ConfigurationError

_NAME = re.compile(r"[a-z]\w*", re.ASCII)
"""A name of timm's registry; one with a colon, a slash or a dot leads to a hub, a folder or pretrained weights."""

_FETCHING = ("pretrained", "pretrained_cfg", "pretrained_cfg_overlay", "checkpoint_path", "cache_dir")


class Timm(nn.Module):
    """A network of timm, as ``timm.create_model(model_name, pretrained=False)`` makes it.

    The class stands for the network itself, so that its state dict and the names of its layers are those of timm.
    Nothing is fetched, and no file is opened.

    Parameters
    ----------
    model_name
        The name of the network in timm's registry, such as ``resnet18`` or ``vit_small_patch16_224``.
    arguments
        Others that `create_model` takes, such as `num_classes`, `in_chans` and `img_size`; with ``num_classes: 0``, the
        network returns pooled features.

    Notes
    -----
    Input ``(batch, in_chans, y, x)``, output logits ``(batch, num_classes)``.

    Raises
    ------
    ConfigurationError
        If timm is missing, has no such network, or would fetch something.
    """

    def __new__(cls, model_name: str, **arguments: Any) -> Any:
        if not _NAME.fullmatch(model_name):
            raise ConfigurationError(f"model_name: {model_name!r} is not allowed: give a name of timm's registry alone")
        if fetching := [name for name in _FETCHING if arguments.get(name)]:
            raise ConfigurationError(f"{fetching[0]} is not allowed: name the weights in model.weights; leave it out")
        try:
            import timm
        except ImportError as error:
            raise ConfigurationError(
                "model.network: it needs timm and torchvision: install both, here and where workers run"
            ) from error
        if not timm.is_model(model_name):
            raise ConfigurationError(f"timm {timm.__version__} has no network {model_name!r}")
        return timm.create_model(model_name, pretrained=False, **arguments)
