from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from models.capability import RULES
from models.errors import ConfigurationError
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.by_rule import gradients_by_rule
from models.network import Network
from models.questions import Batch, Needs
from models.rules.relevance import AskRelevance, Linear, RelevanceMode, ratio
from models.rules.requirements import require_rules


class _Rule(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    rule: str
    layers: str = Field(
        "*", description="Layers: a dotted name with `*`, or linear, convolution, norm, or input for the first"
    )

    def applies(self, layer: Linear) -> bool:
        if self.layers == "input":
            return layer.ones is not None
        return self.layers == layer.kind or fnmatchcase(layer.name, self.layers)

    def stand_in(self, layer: Linear) -> Tensor:
        raise NotImplementedError


class Epsilon(_Rule):
    """``R_i = sum_j x_i w_ij / (z_j + epsilon sign z_j) R_j``; LRP-0 as epsilon goes to 0."""

    rule: Literal["epsilon"] = "epsilon"
    epsilon: float = Field(1e-6, ge=0)

    def stand_in(self, layer: Linear) -> Tensor:
        output = layer()
        value = output.detach()
        return output * ratio(value, value + torch.full_like(value, self.epsilon).copysign(value))


class Gamma(_Rule):
    """``R_i = sum_j (x_i w_ij + gamma (x_i w_ij)+) / (...) R_j`` where ``z_j > 0``.

    Where ``z_j < 0`` with the negative parts (Andeol et al. 2021, arXiv:2106.11880, eq. 5).
    """

    rule: Literal["gamma"] = "gamma"
    gamma: float = Field(0.25, ge=0)

    def stand_in(self, layer: Linear) -> Tensor:
        value = layer()
        favoured = torch.where(value > 0, _signed(layer, 1), _signed(layer, -1))
        changed = value + self.gamma * favoured
        return changed * ratio(value, changed)


class AlphaBeta(_Rule):
    """``R_i = sum_j (alpha (x_i w_ij)+ / z_j+ - beta (x_i w_ij)- / z_j-) R_j`` with ``beta = alpha - 1``."""

    rule: Literal["alpha_beta"] = "alpha_beta"
    alpha: float = Field(2.0, ge=1)

    def stand_in(self, layer: Linear) -> Tensor:
        value = layer()
        positive, negative = (_signed(layer, sign) for sign in (1, -1))
        credited = self.alpha * positive * ratio(value, positive)
        return credited - (self.alpha - 1) * negative * ratio(value, negative)


class ZPlus(_Rule):
    """``R_i = sum_j (x_i w_ij)+ / z_j+ R_j``: `alpha_beta` with alpha 1."""

    rule: Literal["z_plus"] = "z_plus"

    def stand_in(self, layer: Linear) -> Tensor:
        return AlphaBeta(alpha=1.0).stand_in(layer)


class Flat(_Rule):
    """``R_i = sum_j 1 / n_j R_j``: evenly over a field of view. For the input alone."""

    rule: Literal["flat"] = "flat"

    def stand_in(self, layer: Linear) -> Tensor:
        evenly = layer.unbiased(_ones(layer, self.rule), torch.ones_like(layer.weight))
        return evenly * ratio(layer(), evenly)


class WSquared(_Rule):
    """``R_i = sum_j w_ij^2 / sum_i w_ij^2 R_j``. For the input alone."""

    rule: Literal["w_squared"] = "w_squared"

    def stand_in(self, layer: Linear) -> Tensor:
        squared = layer.unbiased(_ones(layer, self.rule), layer.weight**2)
        return squared * ratio(layer(), squared)


class ZBox(_Rule):
    """``R_i = sum_j (x_i w_ij - l w_ij+ - h w_ij-) / (...) R_j`` for pixels in [l, h]. For the input alone."""

    rule: Literal["z_box"] = "z_box"
    low: float | None = Field(None, description="Smallest value of a pixel; none: of the image")
    high: float | None = Field(None, description="Largest value of a pixel; none: of the image")

    def stand_in(self, layer: Linear) -> Tensor:
        ones, pixels = _ones(layer, self.rule), layer.inputs.detach()
        axes, is_pixel = tuple(range(1, pixels.ndim)), ones.detach() != 0
        low = pixels.where(is_pixel, torch.inf).amin(axes, keepdim=True) if self.low is None else self.low
        high = pixels.where(is_pixel, -torch.inf).amax(axes, keepdim=True) if self.high is None else self.high
        boxed = layer.unbiased(layer.inputs, layer.weight)
        boxed = boxed - layer.unbiased(low * ones, layer.weight.clamp_min(0))
        boxed = boxed - layer.unbiased(high * ones, layer.weight.clamp_max(0))
        return boxed * ratio(layer(), boxed)


LayerRule = Annotated[
    Epsilon | Gamma | AlphaBeta | ZPlus | Flat | WSquared | ZBox,
    Field(discriminator="rule"),
]

COMPOSITES: dict[str, tuple[_Rule, ...]] = {
    "epsilon": (Epsilon(),),
    "z_plus": (Epsilon(layers="norm"), ZPlus()),
    "epsilon_plus": (ZPlus(layers="convolution"), Epsilon()),
    "epsilon_plus_flat": (Flat(layers="input"), ZPlus(layers="convolution"), Epsilon()),
    "epsilon_alpha2_beta1": (AlphaBeta(layers="convolution"), Epsilon()),
    "epsilon_alpha2_beta1_flat": (Flat(layers="input"), AlphaBeta(layers="convolution"), Epsilon()),
    "epsilon_gamma_box": (ZBox(layers="input"), Gamma(layers="convolution"), Epsilon()),
    "gamma": (Epsilon(layers="norm"), Gamma(layers="convolution"), Gamma(gamma=0.05)),
}


@dataclass(frozen=True)
class _FirstThatApplies:
    rules: tuple[_Rule, ...]

    def __call__(self, layer: Linear) -> Tensor:
        return self.rules[self.number(layer)].stand_in(layer)

    def number(self, layer: Linear) -> int:
        return next(number for number, rule in enumerate(self.rules) if rule.applies(layer))


Composite = Literal[
    "epsilon",
    "z_plus",
    "epsilon_plus",
    "epsilon_plus_flat",
    "epsilon_alpha2_beta1",
    "epsilon_alpha2_beta1_flat",
    "epsilon_gamma_box",
    "gamma",
]


class Relevance(ChannelExplainer):
    """An explainer that hands relevance back layer by layer, by a composite of rules."""

    requires = RULES

    mode: ClassVar[type[RelevanceMode]] = RelevanceMode

    composite: Composite = Field("epsilon_plus", description="Choice of a rule for each kind of layer")
    rules: tuple[LayerRule, ...] = Field((), strict=False, description="Rules that come before the composite's")

    def needs(self, network: Network) -> Needs:
        first = _FirstThatApplies(self.rules + COMPOSITES[self.composite])
        applied: set[int] = set()

        def noting(layer: Linear) -> Tensor:
            applied.add(first.number(layer))
            return first(layer)

        require_rules(network, AskRelevance(noting, self.mode))
        for number, rule in enumerate(first.rules):
            if number not in applied and (number < len(self.rules) or rule.layers == "input"):
                raise ConfigurationError(_idle(rule, network))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        relevance = yield from gradients_by_rule(batch, self._ask())
        return relevance.sum(2), relevance

    def _ask(self) -> AskRelevance:
        return AskRelevance(_FirstThatApplies(self.rules + COMPOSITES[self.composite]), self.mode)


class LRP(Relevance):
    """Layer-wise relevance propagation (Bach et al. 2015, doi:10.1371/journal.pone.0130140, eq. 56 to 62).

    Rules and composites are those of Montavon et al. 2019 (doi:10.1007/978-3-030-28954-6_10, section 10.2) and
    Kohlbrenner et al. 2020 (arXiv:1910.09840). Relevance is summed over channels. Positive where the place speaks for
    the target. The map sums to the logit, but for the relevance of biases and that which `alpha_beta` or `z_plus`
    cannot hand on. A BatchNorm that could not be folded into the layer before it follows `norm` rules.
    """

    name: Literal["lrp"] = "lrp"


def _idle(rule: _Rule, network: Network) -> str:
    """Say why a rule was applied nowhere."""
    if rule.layers == "input":
        return (
            f"the rule {rule.rule} for the input is applied nowhere, since no linear layer of {network.name} takes the "
            "pixels as they are (its forward pass changes them first): leave the rule out, by a composite such as "
            "epsilon_plus; or change pixels in cohort.preprocessing"
        )
    return (
        f"the rule {rule.rule} is applied nowhere: {network.name} has no layer that fits `layers: {rule.layers}` and "
        "that no rule before it takes"
    )


def _signed(layer: Linear, sign: int) -> Tensor:
    """Collect what adds to an output of a sign: positive inputs by weights of that sign, negative ones by others."""
    with_sign = layer.weight.clamp_min(0), layer.weight.clamp_max(0)
    first, second = with_sign[::sign]
    total = layer.unbiased(layer.inputs.clamp_min(0), first) + layer.unbiased(layer.inputs.clamp_max(0), second)
    if layer.bias is None:
        return total
    bias = layer.bias.clamp_min(0) if sign > 0 else layer.bias.clamp_max(0)
    return total + bias.view(_bias_shape(layer, total))


def _bias_shape(layer: Linear, output: Tensor) -> tuple[int, ...]:
    return (-1,) if layer.kind == "linear" else (1, -1, *[1] * (output.ndim - 2))


def _ones(layer: Linear, rule: str) -> Tensor:
    if layer.ones is None:
        raise ConfigurationError(
            f"rule {rule} is for the input alone, not for layer {layer.name!r}: give it `layers: input`"
        )
    return layer.ones
