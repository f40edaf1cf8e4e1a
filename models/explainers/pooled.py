from collections.abc import Generator
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT, LAYERS
from models.explainers.base import Explainer
from models.network import Network
from models.outputs import IMAGE_ID, Axis, Computed, Frame, Output
from models.questions import Batch, Needs, Questions, Seen
from models.targets import NO_CLASS

LAYER = "layer"
"""The attribute that names the layer whose features a stored vector has."""


class PooledActivations(Explainer):
    """The output of a layer pooled over space, and the gradient of the target: the vectors that concepts are made of.

    The activation is the mean over space of the layer's output, ``a_k = mean_p A_k(p)``; the gradient is the sum over
    space of ``dS/dA_k(p)``. The product of the gradient with a vector ``v`` is then the directional derivative of the
    target where ``v`` is added to the output of the layer at every place, which adds ``v`` to ``a`` (Kim et al. 2018,
    arXiv:1711.11279, eq. 1). Both are of the plain question, so that no other is asked. They are stored by the name of
    the explainer, or by its `label`, and by that name with ``_gradient``.
    """

    requires = LAYERS | GRADIENT

    name: Literal["pooled_activations"] = "pooled_activations"
    layer: str | None = Field(None, description="Layer by its dotted name; none: the last with a spatial extent")

    def watched(self, network: Network) -> tuple[str, ...]:
        return (network.layer(self.layer),)

    def look(self, seen: Seen, network: Network) -> Tensor:
        """Sum the gradients over space, ``(image, feature)``."""
        (layer,) = self.watched(network)
        return seen.gradients[layer].flatten(2).sum(-1)

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset(self.watched(network)), maps=frozenset({self}))

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        layer = network.layer(self.layer)
        feature = feature_of(self.title)
        axes = (Axis(name=feature, labels=network.features(layer), long_name=f"feature of the layer {layer}"),)
        return (
            Output(
                name=self.title,
                dims=(IMAGE_ID, feature),
                kind="vector",
                long_name=f"output of the layer {layer}, mean over space",
                axes=axes,
                attrs={LAYER: layer},
            ),
            Output(
                name=gradient_of(self.title),
                dims=(IMAGE_ID, "target", feature),
                kind="vector",
                long_name=f"gradient of the target with respect to the output of the layer {layer}, sum over space; "
                "NaN where there is no target",
                axes=axes,
                attrs={LAYER: layer},
            ),
        )

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        yield from ()
        layer = batch.network.layer(self.layer)
        activations = batch.answers[0].activations[layer].flatten(2).mean(-1)
        gradients = [answer.maps[self] for answer in batch.answers]
        there = batch.chosen.classes != NO_CLASS
        return {
            self.title: activations,
            gradient_of(self.title): torch.stack(gradients, dim=1).where(there[..., None], torch.nan),
        }


def gradient_of(title: str) -> str:
    """Name the gradients that belong to pooled activations."""
    return f"{title}_gradient"


def feature_of(title: str) -> str:
    """Name the dimension along which pooled activations have their features."""
    return f"{title}_feature"
