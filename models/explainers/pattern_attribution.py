from collections import defaultdict
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.guided_backprop import gradients_by_rule
from models.fits.background import Background
from models.network import Network
from models.questions import Batch, Needs, per_question
from models.rules.relevance import AskGradient, Linear
from models.rules.requirements import require_rules


class PatternAttribution(ChannelExplainer):
    """PatternAttribution (Kindermans et al. 2018, arXiv:1705.05598, eq. 9, and the estimator of section 4).

    The score is handed back through the network with every weight `w` replaced by ``w * a``, where the pattern
    ``a = cov+(x, y) / (w . cov+(x, y))`` is the part of a layer's input `x` that its output `y` responds to. ``cov+``
    is taken over the background's places where ``y > 0``; without such, ``a = w / (w . w)``. Summed over channels.
    """

    requires = RULES

    fits = (Background,)
    name: Literal["pattern_attribution"] = "pattern_attribution"

    def needs(self, network: Network) -> Needs:
        require_rules(network, AskGradient(_plain))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        patterns = batch.once(self.name, lambda: _Patterns(batch.network, background))
        gradients = yield from gradients_by_rule(batch, AskGradient(patterns))
        return _weighted(batch.scores, gradients.sum(2)), _weighted(batch.scores, gradients)


def _weighted(scores: Tensor, values: Tensor) -> Tensor:
    """Multiply ``(target, image, ...)`` by the score of each target and image."""
    return torch.stack([per_question(score, of) * of for score, of in zip(scores, values, strict=True)])


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


class _Patterns:
    """A rule: the gradient by patterns, which are learnt from the background."""

    def __init__(self, network: Network, background: Tensor) -> None:
        moments: dict[str, _Moments] = defaultdict(_Moments)
        layers: dict[str, Linear] = {}

        def collect(layer: Linear) -> Tensor:
            if layer.name:
                moments[layer.name].add(layer)
                layers[layer.name] = layer
            return _plain(layer)

        index = torch.zeros(1, dtype=torch.long, device=background.device)
        tiles, padded = network.tiles, network.tiles.pad(background)
        with torch.enable_grad():
            for number in torch.arange(len(background) * tiles.count).split(1):
                window = padded[number] if tiles.is_whole else tiles.cut(padded, number)
                AskGradient(collect)(network, window.clone().requires_grad_(), index, index)
        self.weights = {name: _weight_by_pattern(layers[name], found) for name, found in moments.items()}

    def __call__(self, layer: Linear) -> Tensor:
        weight = self.weights.get(layer.name)
        return _plain(layer) if weight is None else layer.unbiased(layer.inputs, weight)


def _plain(layer: Linear) -> Tensor:
    return layer()


def _weight_by_pattern(layer: Linear, found: _Moments) -> Tensor:
    weight = layer.weight.double()
    axes = tuple(axis for axis in range(weight.ndim) if axis != layer.out_axis)
    count = torch.as_tensor(found.count).clamp_min(1)
    covariance = found.xy / count - (found.x / count) * (found.y / count)
    response = (weight * covariance).sum(axes, keepdim=True)
    covariance = covariance.where(response > 0, weight)
    response = (weight * covariance).sum(axes, keepdim=True)
    return (weight * covariance / response.where(response > 0, 1.0)).to(layer.weight)


def _by_output(layer: Linear, values: Tensor) -> Tensor:
    """Sum over all axes but that of the features, in the shape of the layer's weight."""
    feature = values.ndim - 1 if layer.kind == "linear" else 1
    total = values.double().sum(tuple(axis for axis in range(values.ndim) if axis != feature))
    return total.view([-1 if axis == layer.out_axis else 1 for axis in range(layer.weight.ndim)])
