from typing import Literal

from torch import Tensor

from models.explainers.looking import LayerExplainer, weighted_sum


class GradCAMPlusPlus(LayerExplainer):
    """Grad-CAM++ (Chattopadhay et al. 2018, arXiv:1710.11063, eq. 5, 10 and 19).

    ``map = relu(sum_k w_k A_k)``, ``w_k = sum_p alpha[k, p] relu(dS/dA[k, p])`` with
    ``alpha = g**2 / (2 g**2 + (sum_q A[k, q]) g**3)`` and ``g = dS/dA``; for ``Y = exp(S)`` the factor ``Y`` cancels in
    alpha, and is left out of the weights, where it scales a whole map. The paper's features follow a ReLU; of others
    alpha takes the positive part, without which it has poles. Never negative.
    """

    name: Literal["gradcam_plusplus"] = "gradcam_plusplus"

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        features, gradient = activations.flatten(2), gradients.flatten(2)
        denominator = 2 * gradient**2 + features.relu().sum(-1, keepdim=True) * gradient**3
        alpha = (gradient**2 / denominator.where(denominator != 0, 1.0)).where(gradient != 0, 0.0)
        weights = (alpha * gradient.relu()).sum(-1)
        return weighted_sum(weights, activations)
