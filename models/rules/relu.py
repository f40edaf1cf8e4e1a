"""Other backward rules of ReLU, for modules and functions alike, in a scope; the network itself stays as it is."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.errors import ConfigurationError
from models.few_channels import few_channels
from models.network import Network
from models.rules.overloads import as_function
from models.rules.requirements import require_same
from models.trial import exact_convolutions

_RELUS = (torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, functional.relu, functional.relu_)


class _Guided(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        ctx.save_for_backward(values > 0)
        return values.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        (positive,) = ctx.saved_tensors
        return gradients[0].relu() * positive


class _Deconvolved(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return values.relu()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0].relu()


class _ReluMode(TorchFunctionMode):
    def __init__(self, instead: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.instead = instead
        self.seen = 0

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        if func not in _RELUS:
            return func(*args, **kwargs)
        self.seen += 1
        values = args[0] if args else kwargs["input"]
        return self.instead(values)


def guided(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    """Stop negative gradients on the way backward, and those at places that ReLU stopped on the way forward."""
    with _ReluMode(_Guided.apply), few_channels():
        return network(inputs)


def deconvolved(network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
    """Stop negative gradients on the way backward, whatever ReLU did on the way forward."""
    with _ReluMode(_Deconvolved.apply), few_channels():
        return network(inputs)


def require_relu(network: Network) -> None:
    """Check that the network has ReLUs, and none in place whose argument it uses again.

    Raises
    ------
    ConfigurationError
        If it has none, so that the rule would only rename the plain gradient; or if it answers otherwise by the rule.
    """
    counting = _ReluMode(functional.relu)
    with torch.no_grad(), network.exact(), exact_convolutions(), counting:
        logits = network(network.synthetic())
    require_same(network, logits)
    if not counting.seen:
        activations = sorted(
            {type(part).__name__ for part in network.module.modules() if "activation" in type(part).__module__}
        )
        raise ConfigurationError(
            f"{type(network.module).__name__} has no ReLU (its activations: {', '.join(activations)}); "
            "the rule would be the plain gradient. Use integrated_gradients or smoothgrad instead"
        )
