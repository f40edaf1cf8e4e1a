"""Weights as they are stored: a safetensors file, or a PyTorch file that holds a state dict and nothing else."""

from collections.abc import Mapping
from io import BytesIO
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.trial import summary

_ALONE = "save the state dict alone, by `torch.save(network.state_dict(), path)` or safetensors"


def read_state_dict(weights: bytes) -> dict[str, Tensor]:
    """Read a state dict, without unpickling anything but tensors.

    Raises
    ------
    ConfigurationError
        If the weights are something else, with how to save them.
    """
    if weights.startswith((b"PK\x03\x04", b"\x80")):
        return _of_pytorch(weights)
    try:
        return load_safetensors(weights)
    except SafetensorError as error:
        raise ConfigurationError(
            f"the weights are neither safetensors nor a .pt state dict ({summary(error)}): {_ALONE}"
        ) from error


def _of_pytorch(weights: bytes) -> dict[str, Tensor]:
    try:
        state = torch.load(BytesIO(weights), map_location="cpu", weights_only=True)
    except Exception as error:  # its advice, to switch the check off, is not passed on
        raise ConfigurationError(
            f"the weights hold more than tensors{_objects(weights)}, or are damaged: load them where they were made, "
            f"and {_ALONE}"
        ) from error
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not isinstance(state, dict):
        raise ConfigurationError(f"the weights hold a {type(state).__name__}, not a state dict: {_ALONE}")
    strangers = [name for name, value in state.items() if not isinstance(name, str) or not isinstance(value, Tensor)]
    if strangers:
        raise ConfigurationError(
            f"the weights hold more than the tensors of a state dict, such as {strangers[0]!r}, which is a "
            f"{type(state[strangers[0]]).__name__}: {_ALONE}"
        )
    return state


def _objects(weights: bytes) -> str:
    """Name the classes that a PyTorch file would build beside tensors."""
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(BytesIO(weights))
    except Exception:  # only files in the format of PyTorch 1.6 and later tell
        return ""
    return f" (objects of {', '.join(sorted(names)[:3])})" if names else ""


def misfit(module: nn.Module, state: Mapping[str, Any]) -> str:
    """Say how a state dict differs from that of the module, with one example for each kind, and a likely cause."""
    own = module.state_dict()
    missing, spare = [name for name in own if name not in state], [name for name in state if name not in own]
    other = [name for name in own if name in state and own[name].shape != state[name].shape]
    within = [name for name in spare if missing and name.endswith(f".{missing[0]}")]
    found = [
        f"{len(missing)} of {len(own)} tensors are missing, such as {missing[0]!r}" if missing else "",
        f"{len(spare)} are not known, such as {(within or spare)[0]!r}" if spare else "",
        f"{len(other)} have another shape, such as {other[0]!r}, which is {tuple(state[other[0]].shape)} where the "
        f"network has {tuple(own[other[0]].shape)}: see to the arguments of model.network"
        if other
        else "",
    ]
    if within:
        prefix = within[0].removesuffix(missing[0])
        found.append(f"names begin with {prefix!r}: save the state dict of that module alone")
    return "; ".join(filter(None, found))
