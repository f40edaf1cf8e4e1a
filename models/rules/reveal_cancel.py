"""DeepLIFT's RevealCancel rule: what speaks for an output, and what against it, is credited apart.

What a linear layer's output gains has a positive and a negative part, ``dz+`` and ``dz-``, by the sign of what each
input adds to it. A function of that output is credited to the two parts by how much it gains from each, on average over
which of them comes first (Shrikumar et al. 2017, arXiv:1704.02685, sections 3.5.2 and 3.5.3)::

    dy+ = (f(z0 + dz+) - f(z0)) / 2 + (f(z0 + dz+ + dz-) - f(z0 + dz-)) / 2
    dy- = (f(z0 + dz-) - f(z0)) / 2 + (f(z0 + dz+ + dz-) - f(z0 + dz+)) / 2

Between the layer and the function, only steps that move values may come. Any other difference has one part, by which
the rule is the rescale rule.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.network import Network
from models.overloads import as_function
from models.rules.known import Known
from models.rules.relevance import LINEAR, MOVING, moved, ratio
from models.rules.rescale import ELEMENTWISE, SMALL, Noted, RescaleMode, note
from models.trial import exact_convolutions

_CARRYING = MOVING | {f"{kind}dropout{dims}" for kind in ("", "feature_", "alpha_") for dims in ("", "1d", "2d", "3d")}

Parts = tuple[Tensor, Tensor]


class RevealCancelMode(RescaleMode):
    """The rule in a scope, with rescale where a difference has one part.

    Attributes
    ----------
    revealed
        The number of functions whose argument had two parts.
    """

    def __init__(self, noted: Iterator[Noted]) -> None:
        super().__init__(noted)
        self.revealed = 0
        self.parts: Known[Parts] = Known()

    @classmethod
    def is_noted(cls, func: Any, args: Sequence[Any]) -> bool:
        return func in LINEAR or super().is_noted(func, args)

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        name = getattr(func, "__name__", "")
        if func in LINEAR:
            return self._linear(func, *args, **kwargs)
        parts = self.parts.of(args[0]) if args else None
        if parts is None or name not in ELEMENTWISE | _CARRYING:
            return super().__torch_function__(func, types, args, kwargs)
        if name in ELEMENTWISE:
            self.revealed += 1
            (before, *_), after = next(self.noted)
            return _revealed(func, args, kwargs, parts, before, after)
        outcome = func(*args, **kwargs)
        if isinstance(outcome, Tensor):
            positive, negative = (moved(func, part, args[1:], kwargs) for part in parts)
            self.parts.note(outcome, (positive, negative))
        return outcome

    def _linear(self, func: Any, inputs: Tensor, weight: Tensor, bias: Tensor | None = None, *rest: Any, **kw: Any):  # type: ignore[no-untyped-def]
        (before, *_), _ = next(self.noted)
        gained = inputs - before
        # An input that gains nothing counts half for each part, since what it is made of may gain and lose.
        sign = gained.detach().sign()
        up, down = gained * (0.5 + sign / 2), gained * (0.5 - sign / 2)
        above, below = weight.clamp_min(0), weight.clamp_max(0)
        positive = func(up, above, None, *rest, **kw) + func(down, below, None, *rest, **kw)
        negative = func(up, below, None, *rest, **kw) + func(down, above, None, *rest, **kw)
        stand_in = positive + negative
        value = func(inputs.detach(), weight, bias, *rest, **kw) + (stand_in - stand_in.detach())
        self.parts.note(value, (positive, negative))
        return value


def _revealed(func: Any, args: Sequence[Any], kwargs: Any, parts: Parts, before: Tensor, after: Tensor) -> Tensor:
    inputs, *rest = args
    kwargs = {name: value for name, value in kwargs.items() if name != "inplace"}

    def value_at(inputs: Tensor) -> Tensor:
        found: Tensor = func(inputs, *rest, **kwargs)
        return found

    value = value_at(inputs.detach().clone())
    stand_in = torch.zeros_like(value)
    for own, other in (parts, parts[::-1]):
        alone, last = value_at(before + own.detach()) - after, value - value_at(before + other.detach())
        stand_in = stand_in + own * ratio((alone + last) / 2, own.where(own.abs() > SMALL, 0.0))
    return value + (stand_in - stand_in.detach())


def require_parts(network: Network, reference: Tensor) -> None:
    """Check that the network has functions of linear layers, where the rule differs from rescale.

    Raises
    ------
    ConfigurationError
        If it has none.
    """
    images = network.synthetic().requires_grad_()
    with network.exact(), exact_convolutions(), torch.enable_grad():
        mode = RevealCancelMode(iter(note(network, reference, RevealCancelMode)))
        with mode:
            network(images)
    if not mode.revealed:
        raise ConfigurationError(
            f"{network.name} has no activation that takes the output of a linear layer, so that reveal_cancel is "
            "rescale: set rule to that"
        )
