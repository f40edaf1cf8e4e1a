"""TorchScript modules: asked forwards and for gradients of the input, but not looked into."""

from io import BytesIO

import torch
from torch import nn

from models.errors import ConfigurationError
from models.forms.archives import entries


def is_torchscript(data: bytes) -> bool:
    """Tell whether a file is a TorchScript module, by its content."""
    return any(name.partition("/")[2].startswith("code/") for name in entries(data))


def load(data: bytes) -> nn.Module:
    """Load a TorchScript module. What it computes is code of whoever made the file: its digest has to be known.

    Hooks on a traced module register and never fire, and a scripted one does not hand out its submodules.

    Raises
    ------
    ConfigurationError
        If the archive is damaged, or of a version that torch does not read.
    """
    try:
        return torch.jit.load(BytesIO(data), map_location="cpu")
    except (RuntimeError, ValueError) as error:
        raise ConfigurationError(
            f"model.weights: the TorchScript module cannot be loaded ({type(error).__name__}): save it again by "
            f"`torch.jit.save` with torch {torch.__version__}, or name the class in model.network and its state dict"
        ) from error
