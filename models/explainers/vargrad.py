from typing import Literal

from models.explainers.base import ExplainingChannels
from models.explainers.noise import NoisyGradient
from models.questions import Batch


class VarGrad(NoisyGradient):
    """VarGrad (Adebayo et al. 2018, arXiv:1810.03307, section 3).

    ``map = max_c var_s dS/dx(x + n_s)``, the variance over the samples (divided by their number). Never negative.
    """

    name: Literal["vargrad"] = "vargrad"

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        mean, square = yield from self.moments(batch)
        variance = (square - mean**2).clamp_min(0)
        return variance.amax(2).to(batch.images), variance
