from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from models.capability import RULES
from models.explainers.base import ChannelExplainer, ExplainingChannels
from models.explainers.by_rule import gradients_by_rule
from models.fits.background import Background
from models.network import Network
from models.questions import Batch, Needs, per_question
from models.rules.patterns import AskGradient, learn_patterns, pattern_of
from models.rules.relevance import Linear
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
        require_rules(network, AskGradient(_ByPattern({})))
        return Needs()

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        background = batch.fitted["background"]
        patterns = batch.once("patterns", lambda: learn_patterns(batch.network, background))
        gradients = yield from gradients_by_rule(batch, AskGradient(_ByPattern(patterns)))
        return _weighted(batch.scores, gradients.sum(2)), _weighted(batch.scores, gradients)


def _weighted(scores: Tensor, values: Tensor) -> Tensor:
    """Multiply ``(target, image, ...)`` by the score of each target and image."""
    return torch.stack([per_question(score, of) * of for score, of in zip(scores, values, strict=True)])


@dataclass(frozen=True, eq=False)
class _ByPattern:
    """A rule: the gradient as if each layer's weights were multiplied by its pattern."""

    patterns: Mapping[str, Tensor]

    def __call__(self, layer: Linear) -> Tensor:
        pattern = pattern_of(layer, self.patterns)
        if pattern is None:
            return layer()
        return layer.unbiased(layer.inputs, (layer.weight.double() * pattern).to(layer.weight))
