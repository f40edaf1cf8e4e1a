from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import ClassVar, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from models.capability import GRADIENT, LAYERS, Capabilities
from models.errors import ConfigurationError
from models.explainers.base import Explaining, MapExplainer
from models.explainers.integrated_gradients import IntegratedGradients, quadrature
from models.explainers.looking import upsample
from models.layers import hooked
from models.network import Network
from models.questions import Answer, Batch, Needs, Questions, Seen, per_question


class ExpressiveGradients(MapExplainer):
    """Expressive gradients, a variant (Yang et al. 2019, doi:10.1371/journal.pone.0215076).

    Integrated gradients of the image together with those of the outputs of layers, as the authors have them; how these
    are integrated and weighted is our own choice: ``map = sum_l w_l M_l`` with weights that sum to 1, ``M_0`` the
    integrated gradients of the image, and ``M_l = sum_k (A - A0) * sum_s w_s dS/dA(A0 + a_s (A - A0))`` those of a
    layer whose output is ``A`` of the image and ``A0`` of the baseline. ``M_l`` is interpolated to the image's grid,
    and divided by how many places of the image one of the layer becomes. Where all that the score depends on goes
    through the layer, ``M_l`` sums to ``S(x) - S(x0)``, as the map does; so it is after interpolation where the sides
    of the image are multiples of the layer's.
    """

    requires = GRADIENT | LAYERS

    name: Literal["expressive_gradients"] = "expressive_gradients"
    layers: tuple[str, ...] | None = Field(
        None,
        strict=False,
        min_length=1,
        description="Layers by their dotted names; none: the last with a spatial extent",
    )
    weights: tuple[float, ...] | None = Field(
        None, strict=False, description="How much the image counts, then each of the layers; none: all the same"
    )
    steps: int = Field(50, ge=1, description="Gradients an image, and as many for each layer")
    baseline: float = Field(0.0, description="Value of every pixel of x0, in what the network takes")

    @model_validator(mode="after")
    def _check_weights(self) -> "ExpressiveGradients":
        count = 1 + len(self.layers or ("",))
        if self.weights is not None and (len(self.weights) != count or min(self.weights) < 0 or not sum(self.weights)):
            raise ValueError(
                f"weights {list(self.weights)} need {count} numbers, one for the image and one for each layer: none "
                "negative, and not all of them 0"
            )
        return self

    def watched(self, network: Network) -> tuple[str, ...]:
        return tuple(network.layer(name) for name in self.layers or (None,))

    def needs(self, network: Network) -> Needs:
        if not network.tiles.is_whole:
            raise ConfigurationError(
                "attributes to a layer of a whole image, and with model.windows each window has its own: use "
                "integrated_gradients or layercam instead"
            )
        for layer in self.watched(network):
            if _count_calls(network, layer) > 1:
                raise ConfigurationError(
                    f"layer {layer!r} is called more than once for an image, so that it has no one output to integrate "
                    "over: name another in `layers`"
                )
        return Needs()

    def explain(self, batch: Batch) -> Explaining:
        layers = self.watched(batch.network)
        weights = torch.tensor(self.weights or [1.0] * (1 + len(layers)), dtype=torch.float64)
        of_image, *of_layers = (weights / weights.sum()).tolist()
        whole = IntegratedGradients(steps=self.steps, baseline=self.baseline)
        total = of_image * (yield from whole.explain_inputs(batch)).maps
        for layer, weight in zip(layers, of_layers, strict=True):
            key = ("output at the baseline", layer, self.baseline)
            start = batch.once(key, partial(self._at_baseline, batch, layer))
            total = total + weight * (yield from self._integrate(batch, layer, start))
        return total

    def _at_baseline(self, batch: Batch, layer: str) -> Tensor:
        network = batch.network
        baseline = network.prepare(torch.full_like(batch.images[:1], self.baseline))
        with torch.no_grad(), network.exact(), network.watch([layer]) as outputs:
            network(baseline, batch.reference[:1])
        return outputs[layer]

    def _integrate(self, batch: Batch, layer: str, start: Tensor) -> Generator[Questions, None, Tensor]:
        total = batch.zeros()
        nodes, weights = quadrature(self.steps, batch.images)
        path = _Path(layer, start, nodes)

        def make(image: Tensor, step: Tensor) -> Tensor:
            return batch.images[image]

        def fold(answer: Answer) -> None:
            maps = answer.maps[path]
            total[answer.target].index_add_(0, answer.image, per_question(weights[answer.step], maps) * maps)

        yield Questions(self.steps, make, fold, Needs(maps=frozenset({path})), ask=path)
        return total


def _count_calls(network: Network, layer: str) -> int:
    calls: list[None] = []
    with torch.no_grad(), network.exact(), hooked(network.module, [layer], lambda *_: calls.append(None)):
        network(network.synthetic(), network.synthetic_record())
    return len(calls)


@dataclass(frozen=True, eq=False)
class _Path:
    """A way to ask with a layer's output at a place between `start` and that of the image, and a look at its gradient.

    Attributes
    ----------
    start
        ``(1, feature, *layer_space)``, the layer's output at the baseline.
    nodes
        ``(step,)``, the places in [0, 1].
    """

    layer: str
    start: Tensor
    nodes: Tensor
    requires: ClassVar[Capabilities] = GRADIENT | LAYERS

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        def move(_: str, __: object, output: Tensor) -> Tensor:
            moved = self.start.lerp(output.detach(), per_question(self.nodes[step], output))
            return output + (moved - output).detach()

        with hooked(network.module, [self.layer], move):
            return network(inputs)

    def watched(self, network: Network) -> tuple[str, ...]:
        return (self.layer,)

    def look(self, seen: Seen, network: Network) -> Tensor:
        """Make ``(image, *space)`` of the gradients at the place, for the whole way from the baseline."""
        values = ((seen.activations[self.layer] - self.start) * seen.gradients[self.layer]).sum(1)
        return upsample(values, seen.inputs) * (values[0].numel() / seen.inputs[0, 0].numel())
