from typing import Literal

from models.capability import RULES
from models.explainers.base import Explaining, MapExplainer, strongest_channel
from models.explainers.pattern_attribution import handed_back
from models.fits.background import Background
from models.network import Network
from models.questions import Batch, Needs
from models.rules.patterns import ByPattern
from models.rules.relevance import AskGradient, require_rules


class PatternNet(MapExplainer):
    """PatternNet (Kindermans et al. 2018, arXiv:1705.05598, with the estimator of section 4).

    The score is handed back through the network with every weight `w` replaced by the pattern `a` of
    `pattern_attribution`, which gives the signal: the part of the image that the score responds to, in the unit of the
    image. Of a linear network it is ``a (w . x)``, while `pattern_attribution` is ``w * a (w . x)``. At each place it
    is that of the channel with the largest magnitude, signed.
    """

    requires = RULES

    fits = (Background,)
    name: Literal["patternnet"] = "patternnet"

    def needs(self, network: Network) -> Needs:
        require_rules(network, AskGradient(ByPattern({}, times_weight=False)))
        return Needs()

    def explain(self, batch: Batch) -> Explaining:
        return strongest_channel((yield from handed_back(batch, times_weight=False)), channel=2)
