from typing import Literal

from pydantic import Field
from torch import Tensor

from models.explainers.base import Answer, Explainer, Needs, upsample
from models.network import Network


class GradCAM(Explainer):
    """Grad-CAM (Selvaraju et al. 2017, arXiv:1610.02391, eq. 1 and 2).

    ``map = relu(sum_k w_k A_k)`` with ``w_k`` the mean over space of ``dS/dA_k``, interpolated to the image's
    grid. Never negative.
    """

    name: Literal["gradcam"] = "gradcam"
    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def needs(self, network: Network) -> Needs:
        layers = frozenset({network.layer(self.layer)})
        return Needs(activations=layers, activation_gradients=layers)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        layer = network.layer(self.layer)
        activations, gradients = answer.activations[layer], answer.activation_gradients[layer]
        weights = gradients.flatten(2).mean(-1)
        cam = (weights.view(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)
        return upsample(cam.relu(), answer.images)
