"""What an explainer is: the questions it puts to the network, and how it folds the answers into a map."""

from collections.abc import Generator
from typing import ClassVar

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor
from torch.nn import functional

from models.network import Network
from models.questions import Answer, Batch, Needs, Questions

Explaining = Generator[Questions, None, Tensor]


class Explainer(BaseModel):
    """A named way to turn (network, image, target) into an attribution map; its fields are its parameters."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    makes_map: ClassVar[bool] = True
    needs_background: ClassVar[bool] = False

    name: str
    label: str | None = Field(None, description="What the map is called; none: the name")

    @property
    def title(self) -> str:
        return self.label or self.name

    def needs(self, network: Network) -> Needs:
        """Say what is used of the answer to the plain question: the image as it is.

        Raises
        ------
        ValueError
            If the explainer cannot be right on this network.
        """
        return Needs()

    def explain(self, batch: Batch) -> Explaining:
        """Yield questions, whose answers have been folded when the generator goes on; return the maps.

        Returns
        -------
        Tensor
            ``(target, image, *space)`` on the images' grid: signed and unnormalised.
        """
        yield from ()
        return torch.stack([self.attribute(answer, batch.network) for answer in batch.answers])

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        """Make the maps ``(image, *space)`` of one target from the answer to the plain question alone."""
        raise NotImplementedError


class LayerExplainer(Explainer):
    """An explainer that looks at the output of one layer."""

    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def needs(self, network: Network) -> Needs:
        layers = frozenset({network.layer(self.layer)})
        return Needs(activations=layers, activation_gradients=layers)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        layer = network.layer(self.layer)
        cam = self.combine(answer.activations[layer], answer.activation_gradients[layer])
        return upsample(cam.relu(), answer.inputs)

    def combine(self, activations: Tensor, gradients: Tensor) -> Tensor:
        """Make ``(image, *layer_space)`` of ``(image, feature, *layer_space)``; it is rectified afterwards."""
        raise NotImplementedError


def strongest_channel(values: Tensor, channel: int = 1) -> Tensor:
    """At each place the value of the largest magnitude over the axis `channel`, which goes."""
    return values.gather(channel, values.abs().argmax(channel, keepdim=True)).squeeze(channel)


def weighted_sum(weights: Tensor, activations: Tensor) -> Tensor:
    """Sum ``(image, feature, *layer_space)`` over features with weights ``(image, feature)``."""
    return (weights.view(*weights.shape, *[1] * (activations.ndim - 2)) * activations).sum(1)


def upsample(maps: Tensor, images: Tensor) -> Tensor:
    """Interpolate ``(image, *layer_space)`` bi- or trilinearly to the grid of `images`."""
    mode = "bilinear" if images.ndim == 4 else "trilinear"
    return functional.interpolate(maps[:, None], size=images.shape[2:], mode=mode, align_corners=False)[:, 0]
