from typing import Literal

import torch
from torch import Tensor

from models.explainers.noise import NoisyGradient


class VarGrad(NoisyGradient):
    """VarGrad (Adebayo et al. 2018, arXiv:1810.03307, section 3).

    ``map = max_c var_s dS/dx(x + n_s)``, the variance over the samples (divided by their number). Never negative. Where
    there is so little noise that the gradient is linear in the noise, both copies of a pair say the same of the
    variance, and the error is that of half as many independent samples.
    """

    sums = torch.float64  # single precision loses the difference of the two moments where there is little noise

    name: Literal["vargrad"] = "vargrad"

    def statistic(self, mean: Tensor, square: Tensor) -> Tensor:
        return (square - mean**2).clamp_min(0)
