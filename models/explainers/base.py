"""What an explainer is: what it needs of the network's answer, and how it makes a map of it."""

from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import BaseModel, ConfigDict
from torch import Tensor
from torch.nn import functional

from models.network import Network


@dataclass(frozen=True)
class Needs:
    """What an explainer uses of the answer; ``|`` joins the needs of several."""

    input_gradient: bool = False
    activations: frozenset[str] = frozenset()
    activation_gradients: frozenset[str] = frozenset()

    def __or__(self, other: "Needs") -> "Needs":
        return Needs(
            self.input_gradient or other.input_gradient,
            self.activations | other.activations,
            self.activation_gradients | other.activation_gradients,
        )


@dataclass(frozen=True)
class Answer:
    """The network's answer for a batch and one target an image.

    Attributes
    ----------
    images
        ``(batch, channel, *space)``, what the network was given.
    input_gradient
        Gradient of the target's logit with respect to `images`, same shape; None unless needed.
    activations, activation_gradients
        Layer name to its output ``(batch, feature, *layer_space)`` and to the gradient with respect to it.
    """

    images: Tensor
    input_gradient: Tensor | None = None
    activations: dict[str, Tensor] = field(default_factory=dict)
    activation_gradients: dict[str, Tensor] = field(default_factory=dict)


class Explainer(BaseModel):
    """A named way to turn (network, image, target) into an attribution map; its fields are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    makes_map: ClassVar[bool] = True
    name: str

    def needs(self, network: Network) -> Needs:
        """Say what of the answer is used.

        Raises
        ------
        ValueError
            If the explainer cannot be right on this network.
        """
        raise NotImplementedError

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        """Make the maps ``(batch, *space)`` on the grid of ``answer.images``: signed and unnormalised."""
        raise NotImplementedError


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Interpolate ``(batch, *layer_space)`` bi- or trilinearly to the grid of `images`."""
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return functional.interpolate(maps[:, None], size=images.shape[2:], mode=mode, align_corners=False)[:, 0]
