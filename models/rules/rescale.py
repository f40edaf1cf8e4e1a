"""DeepLIFT's rescale rule: an output's difference from a reference is credited to the differences of its inputs.

The network is run on the reference first, and input and output of each layer that is not linear are noted. Then it is
run on the inputs, with stand-ins whose value is the layer's and whose gradient is the multiplier ``dy / dx``
(Shrikumar et al. 2017, arXiv:1704.02685, section 3.5.1). A maximum's difference goes to the two places where the maxima
are; a product's difference goes to each factor times the mean of the other, which is exact. The rule works on
functions, so that reused and functional layers are reached as well.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from models.errors import ConfigurationError
from models.network import Network
from models.overloads import as_function
from models.rules.relevance import ACTIVATIONS, LINEAR, MAXIMA, PASSING, PRODUCTS, refused, scales
from models.rules.requirements import require_rules, total
from models.trial import exact_convolutions

SMALL = 1e-7
_MISSED = 0.01
ELEMENTWISE = {*ACTIVATIONS, "sigmoid", "sigmoid_", "hardsigmoid", "hardsigmoid_", "softplus", "exp"}
_BILINEAR = PRODUCTS - {"div", "div_"}
_PASSING = PASSING - {"amax", "max"}

Noted = tuple[list[Tensor], Tensor]


class RescaleMode(TorchFunctionMode):
    """The rule, in a scope: functions are answered by stand-ins whose gradient is the multiplier."""

    def __init__(self, noted: Iterator[Noted]) -> None:
        super().__init__()
        self.noted = noted

    @classmethod
    def is_noted(cls, func: Any, args: Sequence[Any]) -> bool:
        """Tell whether the rule needs to know what a function takes and returns at the reference."""
        name = getattr(func, "__name__", "")
        if name in _BILINEAR:
            return len(_tensors(args)) == 2
        return name in ELEMENTWISE or name == "amax" or func in MAXIMA

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}
        name = getattr(func, "__name__", "")
        if RescaleMode.is_noted(func, args):
            before, after = next(self.noted)
            if name in ELEMENTWISE:
                return _rescaled(func, args, kwargs, before[0], after)
            if func in MAXIMA or name == "amax":
                return _maximum(func, args, kwargs, before[0], after)
            return _product(func, args, kwargs, before)
        passes = name in _PASSING or func in LINEAR or func is functional.batch_norm
        known = passes or scales(name, args, kwargs)
        outcome = func(*args, **kwargs)
        return outcome if known else refused(outcome, name, args)


class _Noting(TorchFunctionMode):
    def __init__(self, noted: list[Noted], mode: "type[RescaleMode]") -> None:
        super().__init__()
        self.noted, self.mode = noted, mode

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        if not self.mode.is_noted(func, args):
            return func(*args, **kwargs)
        before = [part.clone() for part in _tensors(args[:1] if func in LINEAR else args)]
        outcome = func(*args, **kwargs)
        self.noted.append((before, outcome.clone()))
        return outcome


@dataclass(frozen=True)
class AskMultipliers:
    """A way to ask by which the input's gradient is the multiplier ``dS / dx`` towards the references.

    Attributes
    ----------
    references
        A function from images and steps ``(question,)`` to references ``(question or 1, channel, *space)``.
    mode
        The rule by which a function's difference is credited.
    """

    references: Callable[[Tensor, Tensor], Tensor]
    mode: type[RescaleMode] = RescaleMode

    def within(self, cut: Callable[[int, Tensor], Tensor]) -> "AskMultipliers":
        """Ask about windows, towards the same windows of the references."""

        def references(image: Tensor, step: Tensor) -> Tensor:
            each = zip(image.split(1), step.split(1), strict=True)
            return torch.cat([cut(number, self.references(*one)) for number, one in enumerate(each)])

        return AskMultipliers(references, self.mode)

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        noted = note(network, self.references(image, step), self.mode)
        with self.mode(iter(noted)):
            return network(inputs)


def note(network: Network, references: Tensor, mode: type[RescaleMode]) -> list[Noted]:
    """Note what the functions that a rule is about take and return, as the network is asked about references."""
    noted: list[Noted] = []
    with torch.no_grad(), _Noting(noted, mode):
        network(network.prepare(references))
    return noted


def require_multipliers(network: Network, reference: Tensor, mode: type[RescaleMode] = RescaleMode) -> None:
    """Check that the network has a rule for every operation, and that multipliers tell all of what logits gain.

    Parameters
    ----------
    reference
        ``(1, channel, *space)``.

    Raises
    ------
    ConfigurationError
        If it has none for one, or they do not.
    """
    if not network.tiles.windows.is_linear:
        raise ConfigurationError(
            "multipliers need logits of an image that are linear in those of its windows: set model.windows.pool to "
            "mean, or use integrated_gradients instead"
        )
    multipliers = require_rules(network, AskMultipliers(lambda image, step: reference, mode))
    images = network.synthetic()
    with torch.no_grad(), network.exact(), exact_convolutions():
        before, after = network(network.prepare(reference)), network(images)
    gained = total((after - before).double())
    credited = ((images - reference) * multipliers).flatten(1).double().sum(1)
    rounding = 64 * torch.finfo(after.dtype).eps * after.flatten(1).double().abs().sum(1).amax()
    if (credited - gained).abs().amax() > _MISSED * gained.abs().amax() + rounding:
        raise ConfigurationError(
            f"{network.name}: multipliers do not add up to what the logits gain, so that one of its operations is not "
            "seen (is one in place, or cut off by `detach`?); use integrated_gradients instead"
        )


def _tensors(args: Sequence[Any]) -> list[Tensor]:
    return [part for part in args if isinstance(part, Tensor)]


def _rescaled(func: Any, args: Sequence[Any], kwargs: Any, before: Tensor, after: Tensor) -> Tensor:
    inputs, *rest = args
    value = func(inputs.clone(), *rest, **kwargs)
    moved = inputs.detach() - before
    near = moved.abs() < SMALL
    multiplier = (value.detach() - after) / moved.where(~near, 1.0)
    stand_in = inputs * multiplier
    return torch.where(near, value, value.detach() + (stand_in - stand_in.detach()))


def _maximum(func: Any, args: Sequence[Any], kwargs: Any, before: Tensor, after: Tensor) -> Tensor:
    inputs = args[0]
    if func in MAXIMA:
        kwargs = {**kwargs, "return_indices": True}
        value, here = func(*args, **kwargs)
        there = func(before, *args[1:], **kwargs)[1]
        dims = value.ndim - 2
        flat, flat_before = inputs.flatten(-dims), before.flatten(-dims)
        here, there = here.flatten(-dims), there.flatten(-dims)
    else:
        axis = kwargs.get("dim", args[1] if len(args) > 1 else None)
        if isinstance(axis, Sequence) and len(axis) == 1:
            (axis,) = axis
        value = func(*args, **kwargs)
        if not isinstance(axis, int):
            return refused(value, "amax over several axes")
        flat, flat_before = inputs.movedim(axis, -1), before.movedim(axis, -1)
        here, there = flat.argmax(-1, keepdim=True), flat_before.argmax(-1, keepdim=True)
    there = there.expand_as(here)
    flat_before = flat_before.expand_as(flat)
    larger = torch.maximum(value.detach(), after)
    credited = torch.zeros_like(value)
    for place, difference in ((here, larger - after), (there, value.detach() - larger)):
        pixel = flat.gather(-1, place)
        moved = (pixel.detach() - flat_before.gather(-1, place)).view(value.shape)
        multiplier = torch.where(moved.abs() < SMALL, 0.0, difference / moved.where(moved.abs() >= SMALL, 1.0))
        credited = credited + pixel.view(value.shape) * multiplier
    return value.detach() + (credited - credited.detach())


def _product(func: Any, args: Sequence[Any], kwargs: Any, before: list[Tensor]) -> Tensor:
    factors = _tensors(args)
    # Of a product in place the first factor is a copy, since it is multiplied more than once.
    value = func(*(part.detach().clone() if isinstance(part, Tensor) else part for part in args), **kwargs)
    stand_in = torch.zeros_like(value)
    for own in (0, 1):
        if factors[own].requires_grad:
            means = [(factor.detach() + old) / 2 for factor, old in zip(factors, before, strict=True)]
            means[own] = factors[own].clone()
            remaining = iter(means)
            halved = [next(remaining) if isinstance(part, Tensor) else part for part in args]
            stand_in = stand_in + func(*halved, **kwargs)
    return value + (stand_in - stand_in.detach())
