"""ReLUs whose backward rule is chosen when a backward pass runs, so that one forward pass serves several rules."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.overloads import as_function

BackwardRule = Callable[[Tensor, Tensor], Tensor]
"""A function from the gradient with respect to what a ReLU returned, and what it returned, to that of what it took."""

_IN_PLACE = {torch.relu_, Tensor.relu_, functional.relu_}
_RELUS = {torch.relu, Tensor.relu, functional.relu} | _IN_PLACE


def stopped(gradient: Tensor, output: Tensor) -> Tensor:
    """Stop gradients at places that ReLU stopped on the way forward: torch's own rule, to the bit."""
    found: Tensor = torch.ops.aten.threshold_backward(gradient, output, 0)
    return found


class Relus(TorchFunctionMode):
    """The ReLUs of a forward pass, modules and functions alike; they compute what they ever do.

    Attributes
    ----------
    rule
        The rule by which a backward pass goes that starts now.
    seen
        The number of ReLUs.
    """

    def __init__(self) -> None:
        super().__init__()
        self.rule: BackwardRule = stopped
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        if func not in _RELUS:
            return func(*args, **kwargs)
        self.seen += 1
        values, in_place = _arguments(*args, **kwargs)
        return _Relu.apply(values, in_place or func in _IN_PLACE, self)


def _arguments(input: Tensor, inplace: bool = False) -> tuple[Tensor, bool]:
    return input, inplace


class _Relu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, in_place: bool, relus: Relus) -> Tensor:
        if in_place:
            ctx.mark_dirty(values)
        output = values.relu_() if in_place else values.relu()
        ctx.relus = relus
        ctx.save_for_backward(output)
        return output

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        (output,) = ctx.saved_tensors
        return ctx.relus.rule(gradients[0], output), None, None
