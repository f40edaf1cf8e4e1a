from typing import Literal

from torch import Tensor

from models.explainers.looking import LayerExplainer


class HiResCAM(LayerExplainer):
    """HiResCAM (Draelos and Carin 2020, arXiv:2011.08891, eq. 4).

    ``map = relu(sum_k dS/dA_k * A_k)``, place by place. Never negative.
    """

    name: Literal["hirescam"] = "hirescam"

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients * activations).sum(1)
