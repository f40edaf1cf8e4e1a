from typing import Literal

from models.explainers.base import ExplainingChannels
from models.explainers.noise import NoisyGradient
from models.questions import Batch


class SmoothGrad(NoisyGradient):
    """SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825, section 3.1).

    ``map = mean_s dS/dx(x + n_s)``, ``n_s`` Gaussian, at each place for the channel with the largest magnitude,
    signed; or the mean of another gradient explainer's maps.
    """

    name: Literal["smoothgrad"] = "smoothgrad"

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        mean, _ = yield from self.moments(batch)
        return self.over_channels(mean).to(batch.images), mean
