from typing import Literal

from torch import Tensor

from models.explainers.noise import NoisyGradient


class SmoothGradSquared(NoisyGradient):
    """SmoothGrad-squared (Hooker et al. 2019, arXiv:1806.10758, section 4.1).

    ``map = max_c mean_s (dS/dx(x + n_s))**2``. Never negative.
    """

    name: Literal["smoothgrad_squared"] = "smoothgrad_squared"

    def statistic(self, mean: Tensor, square: Tensor) -> Tensor:
        return square
