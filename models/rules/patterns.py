"""Patterns: the part of a layer's input that its output responds to, estimated from images.

With weights `w`, inputs `x` and output `y`, the pattern is ``a = cov+(x, y) / (w . cov+(x, y))``, where ``cov+`` is
taken over places where ``y > 0``; where these give no response, ``a = w / (w . w)`` (Kindermans et al. 2018,
arXiv:1705.05598, eq. 9, and the estimator of section 4).
"""

from collections import defaultdict
from dataclasses import dataclass

import torch
from torch import Tensor

from models.network import Network
from models.rules.relevance import AskGradient, Linear


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
