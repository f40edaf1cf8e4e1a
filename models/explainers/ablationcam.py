from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from models.capability import LAYERS
from models.explainers.base import Explaining
from models.explainers.looking import LayerExplainer, upsample
from models.network import Network
from models.questions import Answer, Batch, Needs, Questions


@dataclass(frozen=True)
class Ablated:
    """Ask the network without the feature `step` of a layer."""

    layer: str

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        def ablate(_: Any, __: Any, output: Tensor) -> Tensor:
            rows = torch.arange(len(output), device=output.device)
            return output.index_put((rows, step), output.new_zeros(()))

        handle = network.module.get_submodule(self.layer).register_forward_hook(ablate)
        try:
            return network(inputs)
        finally:
            handle.remove()


class AblationCAM(LayerExplainer):
    """Ablation-CAM (Desai and Ramaswamy 2020, doi:10.1109/WACV45572.2020.9093360).

    ``map = relu(sum_k w_k A_k)`` with ``w_k = (S(x) - S_k(x)) / S(x)`` and ``S_k`` the logit with feature `k` set to
    zero, interpolated to the image's grid; where S(x) is zero, ``w_k = -S_k(x)``. A negative S(x) turns the signs: the
    map then shows what lowers the logit. It asks one question a feature. Never negative.
    """

    requires = LAYERS

    name: Literal["ablationcam"] = "ablationcam"

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset({network.layer(self.layer)}))

    def explain(self, batch: Batch) -> Explaining:
        layer = batch.network.layer(self.layer)
        activations = batch.answers[0].activations[layer]
        scores = batch.scores
        weights = scores[..., None].repeat(1, 1, activations.shape[1])

        def make(image: Tensor, step: Tensor) -> Tensor:
            return batch.images[image]

        def fold(answer: Answer) -> None:
            weights[answer.target, answer.image, answer.step] -= answer.score

        yield Questions(activations.shape[1], make, fold, ask=Ablated(layer), key=("ablationcam", layer))
        weights /= scores.where(scores != 0, 1.0)[..., None]
        cams = torch.einsum("tif,if...->ti...", weights, activations).relu()
        return torch.stack([upsample(cam, batch.images) for cam in cams])
