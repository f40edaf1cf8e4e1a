from typing import Literal

from torch import Tensor

from models.explainers.looking import LayerExplainer


class LayerCAM(LayerExplainer):
    """LayerCAM (Jiang et al. 2021, doi:10.1109/TIP.2021.3089943, eq. 6 and 7).

    ``map = relu(sum_k relu(dS/dA_k) * A_k)``, place by place. Never negative.
    """

    name: Literal["layercam"] = "layercam"

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        return (gradients.relu() * activations).sum(1)
