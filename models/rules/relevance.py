"""Relevance: rules by which each layer hands the relevance of its output back to its inputs.

A rule is a stand-in for a linear layer: a tensor of the layer's inputs whose gradient is the rule, while the value
stays that of the layer. With ``R = value * gradient`` at every tensor, ordinary backpropagation then carries relevance
(Montavon et al. 2019, doi:10.1007/978-3-030-28954-6_10, section 10.3). It works on functions, so that reused and
functional layers are reached as well, and it changes nothing in the network.

Between linear layers, ReLU and its like hand relevance on; the winner of a maximum takes all; a BatchNorm
that the network could not fold into the layer before it is a linear layer of its own; the scale of other norms, gates
(sigmoid) and attention (softmax) count as constants (Arras et al. 2017, doi:10.18653/v1/W17-5221; Ali et al. 2022,
arXiv:2202.07304).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from models.errors import ConfigurationError
from models.network import Network
from models.overloads import as_function
from models.rules.known import Known

_CONVOLUTIONS = {torch.conv1d, torch.conv2d, torch.conv3d}
_TRANSPOSED = {torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d}
LINEAR = {functional.linear, *_CONVOLUTIONS, *_TRANSPOSED}
GATES = {"sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "softmax"}
ACTIVATIONS = {
    f"{name}{in_place}"
    for name in (
        *("relu", "relu6", "leaky_relu", "prelu", "elu", "celu", "selu", "gelu", "silu", "mish", "hardswish"),
        *("hardtanh", "tanh"),
    )
    for in_place in ("", "_")
}
PRODUCTS = {"mul", "mul_", "__mul__", "__rmul__", "__imul__", "matmul", "__matmul__", "bmm", "einsum", "div", "div_"}
PASSING = {
    *("add", "add_", "__add__", "__radd__", "__iadd__", "sub", "sub_", "__sub__", "__isub__", "neg", "__neg__"),
    *("cat", "concat", "stack", "chunk", "split", "unbind", "narrow", "__getitem__", "select", "slice", "roll", "flip"),
    *("view", "reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze", "unsqueeze"),
    *("numpy_T", "__get__", "contiguous", "clone", "expand", "expand_as", "repeat", "to", "float", "double"),
    *("type_as", "as_tensor", "mean", "sum", "amax", "max", "interpolate", "upsample", "pad", "pixel_shuffle"),
    *("pixel_unshuffle", "dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout"),
    *(f"{kind}_pool{dims}d" for kind in ("avg", "adaptive_avg") for dims in (1, 2, 3)),
    *(f"upsample_{kind}" for kind in ("nearest1d", "nearest2d", "nearest3d", "linear1d", "bilinear2d", "trilinear3d")),
}
MOVING = {
    *("pad", "clone", "contiguous", "to", "float", "double", "__getitem__", "narrow", "slice", "flip", "roll", "view"),
    *("reshape", "flatten", "unflatten", "permute", "transpose", "movedim", "squeeze", "unsqueeze", "pixel_unshuffle"),
}
"""Functions that hand on values as they are, or leave some out."""
MAXIMA = {getattr(functional, f"{kind}max_pool{dims}d") for kind in ("", "adaptive_") for dims in (1, 2, 3)}


@dataclass(frozen=True)
class Linear:
    """A linear layer as it is called: ``call(inputs, weight, bias)``.

    Attributes
    ----------
    name
        The layer's dotted name.
    kind
        The layer's kind by the rules of a composite.
    ones
        At the network's input, ones in the place of its pixels, whose gradient is the relevance, and zeros in that of
        padding; None at any other layer.
    out_axis
        The axis of the weight along output features.
    """

    name: str
    kind: str
    call: Callable[[Tensor, Tensor, Tensor | None], Tensor]
    inputs: Tensor
    weight: Tensor
    bias: Tensor | None
    ones: Tensor | None = None
    out_axis: int = 0

    def __call__(self, inputs: Tensor | None = None, weight: Tensor | None = None) -> Tensor:
        """Compute the layer's output with its bias, for other inputs or weights where they are given."""
        inputs, weight = self.inputs if inputs is None else inputs, self.weight if weight is None else weight
        return self.call(inputs, weight, self.bias)

    def unbiased(self, inputs: Tensor, weight: Tensor) -> Tensor:
        return self.call(inputs, weight, None)


Rule = Callable[[Linear], Tensor]


class RelevanceMode(TorchFunctionMode):
    """The rules, in a scope: functions that are called in it are answered by stand-ins whose gradient is a rule."""

    def __init__(self, network: Network, rule: Rule, inputs: Tensor | None = None, ones: Tensor | None = None) -> None:
        super().__init__()
        self.rule = rule
        self.shown: Known[Tensor] = Known()
        if inputs is not None and ones is not None:
            self.shown.note(inputs, ones)
        self.names = {id(value): name.rpartition(".")[0] for name, value in network.module.named_parameters()}

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if func in LINEAR:
            return self._linear(func, *args, **kwargs)
        if func is functional.batch_norm:
            return self._batch_norm(*args, **kwargs)
        if func in NORMS:
            return NORMS[func](*args, **kwargs)
        if name in GATES:
            return _gate(func, args, kwargs)
        if name in ACTIVATIONS:
            return _activation(func, *args, **{key: value for key, value in kwargs.items() if key != "inplace"})
        known = name in PASSING or func in MAXIMA or scales(name, args, kwargs)
        outcome = func(*args, **kwargs)
        if name in MOVING and isinstance(outcome, Tensor) and (ones := self.shown.of(args[0])) is not None:
            self.shown.note(outcome, moved(func, ones, args[1:], kwargs))
        return outcome if known else refused(outcome, name, args)

    def _linear(self, func: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **kw: Any):  # type: ignore[no-untyped-def]
        def call(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
            return func(inputs, weight, bias, *rest, **kw)

        if count_varying((weight, bias), {}):
            return refused(call(inputs, weight, bias), f"{func.__name__} by weights that depend on the image")
        layer = Linear(
            name=self.names.get(id(weight), ""),
            kind="linear" if func is functional.linear else "convolution",
            call=call,
            inputs=inputs,
            weight=weight,
            bias=bias,
            ones=self.shown.of(inputs),
            out_axis=int(func in _TRANSPOSED),
        )
        return self._answered(layer)

    def _batch_norm(
        self,
        inputs: Tensor,
        mean: Tensor,
        variance: Tensor,
        weight: Any = None,
        bias: Any = None,
        *args: Any,
        **kw: Any,
    ) -> Tensor:
        eps = kw.get("eps", args[2] if len(args) > 2 else 1e-5)
        scale = (variance + eps).rsqrt() * (1 if weight is None else weight)
        shift = (0 if bias is None else bias) - mean * scale
        return self._answered(Linear("", "norm", _by_feature, inputs, scale, shift))

    def _answered(self, layer: Linear) -> Tensor:
        with torch.no_grad():
            value = layer()
        if not layer.inputs.requires_grad:
            return value
        stand_in = self.rule(layer)
        return value + (stand_in - stand_in.detach())


def moved(func: Any, ones: Tensor, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    """Move ones as the pixels in whose place they are; padding by a value is no pixel."""
    if func is functional.pad:
        args, kwargs = args[:2], {name: value for name, value in kwargs.items() if name != "value"}
    moved: Tensor = func(ones, *args, **kwargs)
    return moved


def count_varying(args: Sequence[Any], kwargs: dict[str, Any]) -> int:
    """Count the arguments, in lists and by name too, that depend on the image."""
    return sum(isinstance(part, Tensor) and part.requires_grad for part in tree_leaves((args, kwargs)))


def scales(name: str, args: Sequence[Any], kwargs: dict[str, Any]) -> bool:
    """Tell whether a function is a product with one factor at most that depends on the image, in a numerator."""
    divides = name in ("div", "div_") and count_varying(args[1:], kwargs) > 0
    return name in PRODUCTS and count_varying(args, kwargs) < 2 and not divides


def _by_feature(inputs: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    shape = (1, -1, *[1] * (inputs.ndim - 2))
    scaled = inputs * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def _gate(func: Any, args: Sequence[Any], kwargs: dict[str, Any]) -> Tensor:
    gate: Tensor = func(*(part.clone() if isinstance(part, Tensor) else part for part in args), **kwargs)
    return gate.detach()


def _activation(func: Any, inputs: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    value = func(inputs.detach().clone(), *args, **kwargs)
    return inputs * ratio(value, inputs.detach())


def ratio(of: Tensor, to: Tensor) -> Tensor:
    """Divide `of` by `to`, with 0 where `to` is 0; the quotient is a constant for the gradient."""
    of, to = of.detach(), to.detach()
    return torch.where(to == 0, 0.0, of / to.where(to != 0, 1.0))


def _scaled_norm(inputs: Tensor, grouped: Tensor, axes: tuple[int, ...], eps: float) -> Tensor:
    """Centre and scale over some axes of `inputs` viewed as `grouped`; the scale is a constant."""
    deviation = (grouped.var(axes, correction=0, keepdim=True) + eps).sqrt()
    return ((grouped - grouped.mean(axes, keepdim=True)) / deviation.detach()).view(inputs.shape)


def _layer_norm(
    inputs: Tensor, shape: Sequence[int], weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> Tensor:
    normed = _scaled_norm(inputs, inputs, tuple(range(-len(shape), 0)), eps)
    normed = normed if weight is None else normed * weight
    return normed if bias is None else normed + bias


def _group_norm(inputs: Tensor, groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5) -> Tensor:
    normed = _scaled_norm(inputs, inputs.reshape(len(inputs), groups, -1), (-1,), eps)
    return _by_feature(normed, inputs.new_ones(inputs.shape[1]) if weight is None else weight, bias)


def _instance_norm(
    inputs: Tensor, mean: Any = None, variance: Any = None, weight: Any = None, bias: Any = None, *args: Any, **kw: Any
) -> Tensor:
    use_input = kw.get("use_input_stats", args[0] if args else True)
    if not use_input:
        return refused(functional.instance_norm(inputs, mean, variance, weight, bias, False), "instance_norm")
    return _group_norm(inputs, inputs.shape[1], weight, bias, kw.get("eps", args[2] if len(args) > 2 else 1e-5))


NORMS: dict[Any, Callable[..., Tensor]] = {
    functional.layer_norm: _layer_norm,
    functional.group_norm: _group_norm,
    functional.instance_norm: _instance_norm,
}


class _Refused(torch.autograd.Function):
    """A function that hands values on, and raises if relevance comes back this way."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, name: str) -> Tensor:
        ctx.name = name
        return values.clone()  # no view: operations in place may follow

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        raise ConfigurationError(f"there is no rule for {ctx.name}")


def refused(outcome: Any, name: str, args: Sequence[Any] = ()) -> Any:
    """Hand an outcome on that raises if relevance comes back to it.

    Raises
    ------
    ConfigurationError
        If the function changed one of its arguments `args` in place, through which relevance would pass.
    """
    if isinstance(outcome, Tensor):
        if outcome.requires_grad and any(outcome is part for part in args):
            raise ConfigurationError(f"there is no rule for {name}")
        return _Refused.apply(outcome, name) if outcome.requires_grad else outcome
    if isinstance(outcome, tuple):
        parts = (refused(part, name) for part in outcome)
        return type(outcome)(*parts) if hasattr(outcome, "_fields") else tuple(parts)
    return outcome


@dataclass(frozen=True)
class AskRelevance:
    """A way to ask by which the input's gradient is its relevance: the part of the score that is due to it."""

    rule: Rule
    mode: type[RelevanceMode] = RelevanceMode

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        ones = 1 + (inputs - inputs.detach())
        shared = inputs.detach() * ones
        with self.mode(network, self.rule, shared, ones):
            return network(shared)
