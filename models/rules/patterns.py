"""Patterns: the part of a layer's input that its output responds to, estimated from images.

With weights `w`, inputs `x` and output `y`, the pattern is ``a = cov+(x, y) / (w . cov+(x, y))``, where ``cov+`` is
taken over places where ``y > 0``; where these give no response, ``a = w / (w . w)`` (Kindermans et al. 2018,
arXiv:1705.05598, eq. 9, and the estimator of section 4). A BatchNorm that was not folded has one input for each
output, so that its pattern is ``1 / w``. A norm by the image's own statistics has no pattern, and is refused.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from models.errors import ConfigurationError
from models.network import Network
from models.overloads import as_function
from models.rules.relevance import NORMS, Linear, RelevanceMode, Rule, refused


class PatternMode(RelevanceMode):
    """The rules of relevance, without norms by the image's own statistics."""

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        func, args, kwargs = as_function(func, args, kwargs)
        outcome = super().__torch_function__(func, types, args, kwargs)
        return refused(outcome, f"{func.__name__}, which has no pattern") if func in NORMS else outcome


@dataclass(frozen=True)
class AskGradient:
    """A way to ask by which the input's gradient is that of a rule."""

    rule: Rule

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        with PatternMode(network, self.rule):
            return network(inputs)


def pattern_of(layer: Linear, patterns: Mapping[str, Tensor]) -> Tensor | None:
    """Look up the pattern of a layer's weight, in float64; None where none has been learnt yet.

    Raises
    ------
    ConfigurationError
        If the weight is no parameter of the network, so that no pattern is learnt by its name.
    """
    if layer.kind == "norm":
        return layer.weight.double().reciprocal().where(layer.weight != 0, 0.0)
    if not layer.name:
        raise ConfigurationError(
            "there is no pattern for a linear layer whose weight is computed from others, such as by weight_norm"
        )
    return patterns.get(layer.name)


def learn_patterns(network: Network, background: Tensor) -> dict[str, Tensor]:
    """Estimate patterns from images ``(image, channel, *space)``: by layer, of its weight's shape, in float64."""
    moments: dict[str, _Moments] = defaultdict(_Moments)
    layers: dict[str, Linear] = {}

    def collect(layer: Linear) -> Tensor:
        if layer.name:
            moments[layer.name].add(layer)
            layers[layer.name] = layer
        return layer()

    index = torch.zeros(1, dtype=torch.long, device=background.device)
    tiles, padded = network.tiles, network.tiles.pad(background)
    with torch.enable_grad():
        for number in torch.arange(len(background) * tiles.count).split(1):
            window = padded[number] if tiles.is_whole else tiles.cut(padded, number)
            AskGradient(collect)(network, window.clone().requires_grad_(), index, index)
    return {name: _pattern(layers[name], found) for name, found in moments.items()}


@dataclass
class _Moments:
    """Sums over the places where a layer's output is positive, one for each output feature."""

    count: Tensor | float = 0.0
    x: Tensor | float = 0.0
    y: Tensor | float = 0.0
    xy: Tensor | float = 0.0

    def add(self, layer: Linear) -> None:
        with torch.enable_grad():
            # The gradient with respect to the weight sums inputs over places, each times the gradient handed in.
            weight = layer.weight.detach().requires_grad_()
            output = layer.unbiased(layer.inputs.detach(), weight)
            y = layer().detach()
            positive = (y > 0).to(y)
            (xy,) = torch.autograd.grad(output, weight, positive * y, retain_graph=True)
            (x,) = torch.autograd.grad(output, weight, positive)
        self.x, self.xy = self.x + x.double(), self.xy + xy.double()
        self.count, self.y = (
            total + _by_output(layer, part) for total, part in ((self.count, positive), (self.y, positive * y))
        )


def _pattern(layer: Linear, found: _Moments) -> Tensor:
    weight = layer.weight.double()
    axes = tuple(axis for axis in range(weight.ndim) if axis != layer.out_axis)
    count = torch.as_tensor(found.count).clamp_min(1)
    covariance = found.xy / count - (found.x / count) * (found.y / count)
    response = (weight * covariance).sum(axes, keepdim=True)
    covariance = covariance.where(response > 0, weight)
    response = (weight * covariance).sum(axes, keepdim=True)
    return covariance / response.where(response > 0, 1.0)


def _by_output(layer: Linear, values: Tensor) -> Tensor:
    """Sum over all axes but that of the features, in the shape of the layer's weight."""
    feature = values.ndim - 1 if layer.kind == "linear" else 1
    total = values.double().sum(tuple(axis for axis in range(values.ndim) if axis != feature))
    return total.view([-1 if axis == layer.out_axis else 1 for axis in range(layer.weight.ndim)])
