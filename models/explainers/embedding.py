from collections.abc import Generator
from typing import Literal

import torch
from pydantic import Field

from models.capability import LAYERS
from models.explainers.base import Explainer
from models.network import Network
from models.outputs import IMAGE_ID, Axis, Computed, Frame, Output
from models.questions import Batch, Needs, Questions
from models.trial import exact_convolutions

_FEATURE = "feature"


class Embedding(Explainer):
    """Embedding of the image: the mean over space of a layer's output, ``e_k = mean_p A_k(p)``.

    By default the layer is that of Grad-CAM, the last with a spatial extent, or the bottleneck where the network
    segments. A network with global mean pooling decides by this vector alone. Images that the network takes for alike
    lie in the same direction.
    """

    requires = LAYERS

    name: Literal["embedding"] = "embedding"
    layer: str | None = Field(None, description="Layer that is pooled; null: the last with a spatial extent")

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset({network.layer(self.layer)}))

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        layer = network.layer(self.layer)
        with torch.no_grad(), network.exact(), exact_convolutions(), network.watch({layer}) as outputs:
            network(network.synthetic(), network.synthetic_record())
        feature = _FEATURE if self.label is None else f"{self.label}_{_FEATURE}"
        return (
            Output(
                name=self.title,
                dims=(IMAGE_ID, feature),
                kind="vector",
                long_name=f"mean over space of the output of the layer {layer}",
                axes=(Axis(name=feature, labels=outputs[layer].shape[1], long_name=f"feature of the layer {layer}"),),
            ),
        )

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        yield from ()
        activations = batch.answers[0].activations[batch.network.layer(self.layer)]
        return {self.title: activations.flatten(2).to(batch.images).mean(-1)}
