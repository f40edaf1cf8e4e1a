from typing import Literal

from torch import Tensor

from models.explainers.looking import LayerExplainer, weighted_sum


class XGradCAM(LayerExplainer):
    """XGrad-CAM (Fu et al. 2020, arXiv:2008.02312, eq. 8).

    ``map = relu(sum_k w_k A_k)`` with ``w_k = sum_p dS/dA[k, p] A[k, p] / sum_q A[k, q]``; 0 for a feature that
    sums to 0. Never negative.
    """

    name: Literal["xgradcam"] = "xgradcam"

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        features = activations.flatten(2)
        total = features.sum(-1)
        weights = (gradients.flatten(2) * features).sum(-1) / total.where(total != 0, 1.0)
        weights = weights.where(total != 0, 0.0)
        return weighted_sum(weights, activations)
