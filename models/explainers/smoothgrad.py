from typing import Literal

from torch import Tensor

from models.explainers.base import strongest_channel
from models.explainers.noise import NoisyGradient


class SmoothGrad(NoisyGradient):
    """SmoothGrad (Smilkov et al. 2017, arXiv:1706.03825, section 3.1).

    ``map = mean_s dS/dx(x + n_s)``, ``n_s`` Gaussian, at each place for the channel with the largest magnitude,
    signed; or the mean of another gradient explainer's maps.
    """

    name: Literal["smoothgrad"] = "smoothgrad"

    def statistic(self, mean: Tensor, square: Tensor) -> Tensor:
        return mean

    def over_channels(self, values: Tensor) -> Tensor:
        return values.sum(2) if self.of == "input_x_gradient" else strongest_channel(values, channel=2)
