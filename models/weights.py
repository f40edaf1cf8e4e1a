"""Weights as they are stored, in safetensors or in files of PyTorch, and how they fit a network."""

from collections.abc import Mapping
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_safetensors
from torch import Tensor, nn

from models.checkpoints import ALONE, is_safetensors, read_checkpoint, state_within, unwrapped
from models.errors import ConfigurationError
from models.trial import summary


def load_into(module: nn.Module, weights: bytes, key: str | None = None) -> str:
    """Load weights into a module.

    Parameters
    ----------
    weights
        Safetensors, or a file of PyTorch that holds a state dict, by itself or within a checkpoint.
    key
        The place of the state dict in a checkpoint; None: there is one.

    Returns
    -------
    str
        The part of the file that was taken, and the beginning of names that was taken away; empty if it was the whole.

    Raises
    ------
    ConfigurationError
        If there is no state dict, none that fits, or several.
    """
    place, state = state_dict(weights, key)
    begin, fitting = unwrapped(state, module.state_dict(), place)
    _check_numbers(module, fitting)
    try:
        module.load_state_dict(fitting)
    except Exception as error:
        raise ConfigurationError(
            f"model.weights do not fit {type(module).__name__}: {misfit(module, state, place) or summary(error)}"
        ) from error
    left = len(state) - len(fitting)
    parts = [f"the state dict at {place!r}"] * bool(place) + [f"names without the beginning {begin!r}"] * bool(begin)
    return ", ".join(parts + [f"{left} other tensors left out"] * bool(left))


def _check_numbers(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Refuse what torch would take for real numbers, or load without a word: quantised weights, and no numbers at all.

    A buffer may hold infinite numbers, as a mask of attention does, and so may a parameter that is made with them.
    """
    title = type(module).__name__
    real = [name for name, tensor in module.state_dict().items() if tensor.is_floating_point() and name in state]
    for name in real:
        tensor = state[name]
        if tensor.is_meta or tensor.layout != torch.strided:
            raise ConfigurationError(
                f"model.weights: the tensor {name!r} has {'no numbers (meta)' if tensor.is_meta else tensor.layout}: "
                "save the weights from memory, as dense tensors"
            )
    if other := [name for name in real if not state[name].is_floating_point() or state[name].itemsize == 1]:
        raise ConfigurationError(
            f"model.weights: {len(other)} tensors are {state[other[0]].dtype}, such as {other[0]!r}, and {title} "
            "computes with real numbers: save the weights as they were before they were quantised"
        )
    # A parameter that the network's own code makes infinite is a mask, as a buffer is.
    parameters = {name for name, made in module.named_parameters() if made.isfinite().all()}
    if bad := [name for name in real if _is_bad(state[name], may_be_infinite=name not in parameters)]:
        raise ConfigurationError(
            f"model.weights: {len(bad)} of {len(real)} tensors hold NaN or infinite numbers, such as {bad[0]!r}: "
            "the training diverged; take a checkpoint from before"
        )


def _is_bad(tensor: Tensor, *, may_be_infinite: bool) -> bool:
    return bool((tensor.isnan() if may_be_infinite else ~tensor.isfinite()).any())


def state_dict(weights: bytes, key: str | None, field: str = "model.weights") -> tuple[str, dict[str, Tensor]]:
    """Read the state dict of a file: its place in a checkpoint, and its tensors.

    Parameters
    ----------
    field
        The field of the configuration that names the file.

    Raises
    ------
    ConfigurationError
        If there is none.
    """
    if not is_safetensors(weights) and weights.startswith((b"PK\x03\x04", b"\x80")):
        try:
            checkpoint = read_checkpoint(weights)
        except Exception as error:
            raise ConfigurationError(
                f"{field}: the file of PyTorch is damaged ({type(error).__name__}): copy it again, or {ALONE}"
            ) from error
        return state_within(checkpoint, key, field)
    if weights.startswith(b"version https://git-lfs.github.com/spec/"):
        raise ConfigurationError(f"{field}: a pointer of Git LFS in place of the file: fetch it by `git lfs pull`")
    try:
        stored = load_safetensors(weights)
    except SafetensorError as error:
        raise ConfigurationError(
            f"{field}: the file is neither safetensors nor a .pt state dict ({summary(error)}): {ALONE}"
        ) from error
    return ("", stored) if key is None else state_within(stored, key, field)


def misfit(module: nn.Module, state: Mapping[str, Any], place: str = "") -> str:
    """Say how a state dict, at a place of its file, differs from that of the module, and a likely cause."""
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
        key = f"{place}.{prefix}".strip(".")
        found.append(
            f"names begin with {prefix!r}: set `model.weights_key: {key}`, or save the state dict of that module alone"
        )
    return "; ".join(filter(None, found))
