from typing import Literal

from models.explainers.base import ExplainingChannels
from models.explainers.noise import NoisyGradient
from models.questions import Batch


class SmoothGradSquared(NoisyGradient):
    """SmoothGrad-squared (Hooker et al. 2019, arXiv:1806.10758, section 4.1).

    ``map = max_c mean_s (dS/dx(x + n_s))**2``. Never negative.
    """

    name: Literal["smoothgrad_squared"] = "smoothgrad_squared"

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        _, square = yield from self.moments(batch)
        return square.amax(2).to(batch.images), square
