from collections.abc import Generator
from typing import Literal

from pydantic import Field

from models.capability import LAYERS
from models.explainers.base import Explainer
from models.network import INPUT_OF, Network
from models.outputs import IMAGE_ID, Axis, Computed, Frame, Output
from models.questions import Batch, Needs, Questions

_FEATURE = "feature"


class Embedding(Explainer):
    """Embedding of the image: what the linear layer that makes the logits takes, ``e``; ``logits = W e + b``.

    Of a network without such a layer, or of a `layer` that is named: the mean over space of its output,
    ``e_k = mean_p A_k(p)``; by default the last layer with a spatial extent, or the bottleneck where the network
    segments. Images that the network takes for alike lie in the same direction.
    """

    requires = LAYERS

    name: Literal["embedding"] = "embedding"
    layer: str | None = Field(
        None, description="Layer whose output is averaged over space; null: what the last linear layer takes"
    )

    def watched(self, network: Network) -> str:
        """Name what is watched: the output of a layer, or what the last linear layer takes."""
        if self.layer is None and network.classifier is not None:
            return INPUT_OF + network.classifier
        return network.layer(self.layer)

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset({self.watched(network)}))

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        watched = self.watched(network)
        name = _FEATURE if self.label is None else f"{self.label}_{_FEATURE}"
        features = Axis(name=name, labels=network.features(watched), long_name="feature")
        about = watched if watched.startswith(INPUT_OF) else f"mean over space of the output of {watched}"
        return (Output(name=self.title, dims=(IMAGE_ID, name), kind="vector", long_name=about, axes=(features,)),)

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        yield from ()
        activations = batch.answers[0].activations[self.watched(batch.network)].to(batch.images)
        return {self.title: activations if activations.ndim == 2 else activations.flatten(2).mean(-1)}
