from typing import Literal

from torch import Tensor

from models.explainers.looking import LayerExplainer, weighted_sum


class GradCAM(LayerExplainer):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    ``map = relu(sum_k w_k A_k)`` with ``w_k`` the mean over space of ``dS/dA_k``, interpolated to the image's
    grid. Never negative.
    """

    name: Literal["gradcam"] = "gradcam"

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        weights = gradients.flatten(2).mean(-1)
        return weighted_sum(weights, activations)
