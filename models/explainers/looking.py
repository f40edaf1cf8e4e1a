"""Explainers whose maps are made of what layers put out, and what takes it to the images' grid."""

from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.capability import GRADIENT, LAYERS
from models.explainers.base import MapExplainer
from models.network import Network
from models.questions import Answer, Needs, Seen


class LookingExplainer(MapExplainer):
    """An explainer whose map is made of the outputs of layers, of each window by itself.

    Where an image has several windows, their maps are averaged by the windows' weights.
    """

    requires = LAYERS

    def watched(self, network: Network) -> tuple[str, ...]:
        """Name the layers that are looked at."""
        raise NotImplementedError

    def look(self, seen: Seen, network: Network) -> Tensor:
        """Make the maps ``(window, *space)`` of some windows; zeros where all gradients are, if these are required."""
        raise NotImplementedError

    def needs(self, network: Network) -> Needs:
        self.watched(network)
        return Needs(maps=frozenset({self}))

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return answer.maps[self]


class LayerExplainer(LookingExplainer):
    """An explainer that looks at the output of one layer, and the gradient with respect to it."""

    requires = LAYERS | GRADIENT

    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def watched(self, network: Network) -> tuple[str, ...]:
        return (network.layer(self.layer),)

    def look(self, seen: Seen, network: Network) -> Tensor:
        (layer,) = self.watched(network)
        cam = self.combine(seen.activations[layer], seen.gradients[layer])
        return upsample(cam.relu(), seen.inputs)

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Make ``(image, *layer_space)`` of ``(image, feature, *layer_space)``; it is rectified afterwards."""
        raise NotImplementedError


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Sum ``(image, feature, *layer_space)`` over features with weights ``(image, feature)``."""
    return (weights.view(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Interpolate ``(image, *layer_space)`` bi- or trilinearly to the grid of `images`."""
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return functional.interpolate(maps[:, None], size=images.shape[2:], mode=mode, align_corners=False)[:, 0]
