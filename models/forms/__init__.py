"""The forms in which a trained network is held, beside a class of PyTorch and its state dict.

Each of these files holds the whole network. The form is decided by content.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import jit, nn
from torch.export.unflatten import UnflattenedModule

from models.capability import ALL, GRADIENT, WEIGHTS, Capabilities
from models.checkpoints import is_safetensors
from models.composed import Composed
from models.forms import exported, onnx, torchscript


class Form(NamedTuple):
    """A form of networks.

    Attributes
    ----------
    title
        The form in words.
    kind
        The class of its modules.
    capabilities
        The ways in which its modules can be asked.
    recognise
        A function that tells whether a file has the form.
    load
        A function that makes a module of a file; it raises `ConfigurationError`.
    is_code
        Whether the file runs code of whoever made it, so that its digest has to be stated.
    """

    title: str
    kind: type[nn.Module]
    capabilities: Capabilities
    recognise: Callable[[bytes], bool]
    load: Callable[[bytes], nn.Module]
    is_code: bool = False


FORMS = (
    Form("exported program", UnflattenedModule, ALL - WEIGHTS, exported.is_exported, exported.load),
    Form("TorchScript", jit.ScriptModule, GRADIENT, torchscript.is_torchscript, torchscript.load, is_code=True),
    Form("ONNX", onnx.Graph, frozenset(), onnx.is_onnx, onnx.load),
)


def recognise(weights: bytes) -> Form | None:
    """Tell the form of a file; None: it holds weights alone, or is none of these."""
    return None if is_safetensors(weights) else next((form for form in FORMS if form.recognise(weights)), None)


def capabilities(module: nn.Module) -> Capabilities:
    """Tell the ways in which a module can be asked; one that is composed, as each of its parts can."""
    if isinstance(module, Composed):
        return frozenset.intersection(*map(capabilities, module.parts))
    return next((form.capabilities for form in FORMS if isinstance(module, form.kind)), ALL)


def title(module: nn.Module) -> str:
    """Name the form of a module in words."""
    if isinstance(module, Composed):
        return module.title(" and ".join(dict.fromkeys(map(title, module.parts))))
    return next((form.title for form in FORMS if isinstance(module, form.kind)), "PyTorch")


def copied(module: nn.Module) -> nn.Module:
    """Copy a module of any form.

    Raises
    ------
    Exception
        Whatever Python or torch raises about an attribute that cannot be copied.
    """
    with torch.no_grad():  # or the parameters of a copied TorchScript module would be computed ones
        return copy.deepcopy(module, {id(part): part for part in exported.shared_parts(module)})
