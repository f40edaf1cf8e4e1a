"""Leaves of exported programs as modules of torch, so that their BatchNorms are folded as those of any network are."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.export.unflatten import InterpreterModule
from torch.fx import Node

aten: Any = torch.ops.aten


def with_own_leaves(module: nn.Module) -> nn.Module:
    """Put a module of torch in the place of each part that is nothing but one convolution, linear layer or BatchNorm.

    Parameters stay the same objects.
    """
    for name, part in list(module.named_modules()):
        if name and isinstance(part, InterpreterModule) and (leaf := _leaf(part)) is not None:
            module.set_submodule(name, leaf.eval())
    return module


def _leaf(part: InterpreterModule) -> nn.Module | None:
    """Make the module that a part stands for; None: it is anything else."""
    nodes = list(part.graph.nodes)
    inputs = [node for node in nodes if node.op == "placeholder"]
    calls = [node for node in nodes if node.op not in ("placeholder", "get_attr", "output")]
    if len(calls) != 1 or len(inputs) != 1 or nodes[-1].args != (calls[0],):
        return None
    (call,) = calls
    packet, (first, *rest) = getattr(call.target, "overloadpacket", None), call.args
    make = _MAKERS.get(packet)
    if make is None or call.kwargs or first is not inputs[0] or inputs[0] in rest:
        return None
    return make(*(getattr(part, str(one.target)) if isinstance(one, Node) else one for one in rest))


def _convolution(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> nn.Module:
    kinds: dict[int, Any] = {3: nn.Conv1d, 4: nn.Conv2d, 5: nn.Conv3d}
    outputs, inputs, *kernel = weight.shape
    sides = map(_sides, (stride, padding, dilation))
    made = kinds[weight.ndim](inputs * groups, outputs, tuple(kernel), *sides, groups, False, device="meta")
    return _with_parameters(made, weight, bias)


def _transposed(
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> nn.Module:
    kinds: dict[int, Any] = {3: nn.ConvTranspose1d, 4: nn.ConvTranspose2d, 5: nn.ConvTranspose3d}
    inputs, outputs, *kernel = weight.shape
    sides = map(_sides, (stride, padding, output_padding))
    made = kinds[weight.ndim](
        inputs, outputs * groups, tuple(kernel), *sides, groups, False, _sides(dilation), device="meta"
    )
    return _with_parameters(made, weight, bias)


def _sides(of: Any) -> Any:
    """Take a list of sides to a tuple, as modules have it."""
    return tuple(of) if isinstance(of, list) else of


def _linear(weight: Tensor, bias: Tensor | None = None) -> nn.Module:
    return _with_parameters(nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta"), weight, bias)


def _batch_norm(
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    *_: Any,
) -> nn.Module | None:
    if training or mean is None or variance is None:
        return None
    made = _AnyBatchNorm(len(mean), eps, affine=False, track_running_stats=False)
    made.running_mean, made.running_var = mean, variance
    return _with_parameters(made, weight, bias)


class _AnyBatchNorm(nn.BatchNorm2d):
    """BatchNorm of inputs of any number of axes, as ATen's is."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Take any."""


def _with_parameters(module: nn.Module, weight: Tensor | None, bias: Tensor | None) -> nn.Module:
    for name, tensor in (("weight", weight), ("bias", bias)):
        is_own = tensor is None or isinstance(tensor, nn.Parameter)
        own: Any = tensor if is_own else nn.Parameter(tensor, requires_grad=False)  # type: ignore[arg-type]
        module.register_parameter(name, own)
    return module


_MAKERS: dict[Any, Callable[..., nn.Module | None]] = {
    **{getattr(aten, f"conv{dims}d"): _convolution for dims in (1, 2, 3)},
    **{getattr(aten, f"conv_transpose{dims}d"): _transposed for dims in (1, 2, 3)},
    aten.linear: _linear,
    aten.batch_norm: _batch_norm,
}
