from collections.abc import Generator
from typing import Literal

from torch import Tensor

from models.capability import RULES
from models.explainers.base import Explaining, MapExplainer
from models.explainers.guided_backprop import gradients_by_rule
from models.fits.background import Background
from models.network import Network
from models.questions import Batch, Needs, Questions
from models.rules.patterns import ByPattern, learn_patterns
from models.rules.relevance import AskGradient, require_rules


class PatternAttribution(MapExplainer):
    """PatternAttribution (Kindermans et al. 2018, arXiv:1705.05598, eq. 9, and the estimator of section 4).

    The score is handed back through the network with every weight `w` replaced by ``w * a``, where the pattern
    ``a = cov+(x, y) / (w . cov+(x, y))`` is the part of a layer's input `x` that its output `y` responds to. ``cov+``
    is taken over the background's places where ``y > 0``; without such, ``a = w / (w . w)``. Summed over channels.
    """

    requires = RULES

    fits = (Background,)
    name: Literal["pattern_attribution"] = "pattern_attribution"

    def needs(self, network: Network) -> Needs:
        require_rules(network, AskGradient(ByPattern({}, times_weight=True)))
        return Needs()

    def explain(self, batch: Batch) -> Explaining:
        return (yield from handed_back(batch, times_weight=True)).sum(2)


def handed_back(batch: Batch, *, times_weight: bool) -> Generator[Questions, None, Tensor]:
    """Hand the scores back by the background's patterns: ``(target, image, channel, *space)``."""
    background = batch.fitted["background"]
    patterns = batch.once("patterns", lambda: learn_patterns(batch.network, background))
    gradients = yield from gradients_by_rule(batch, AskGradient(ByPattern(patterns, times_weight)))
    return batch.scores.view(*batch.scores.shape, *[1] * (gradients.ndim - 2)) * gradients
