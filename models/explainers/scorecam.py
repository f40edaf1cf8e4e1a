from typing import Literal

import torch
from torch import Tensor

from models.capability import LAYERS
from models.explainers.base import Explaining
from models.explainers.looking import LayerExplainer, upsample
from models.network import Network
from models.questions import Answer, Batch, Needs, Questions, per_question


class ScoreCAM(LayerExplainer):
    """Score-CAM (Wang et al. 2020, arXiv:1910.01279, eq. 6 to 8).

    ``map = relu(sum_k w_k A_k)`` with ``w = softmax_k(P(x * H_k))``, `P` the target's probability and ``H_k`` the
    feature interpolated to the image's grid and scaled to [0, 1]. It asks one question a feature. Never negative.
    """

    requires = LAYERS

    name: Literal["scorecam"] = "scorecam"

    def needs(self, network: Network) -> Needs:
        return Needs(activations=frozenset({network.layer(self.layer)}))

    def explain(self, batch: Batch) -> Explaining:
        layer = batch.network.layer(self.layer)
        activations = batch.answers[0].activations[layer]
        features = activations.shape[1]
        scores = batch.images.new_zeros(len(batch.answers), len(batch.images), features)

        def make(image: Tensor, step: Tensor) -> Tensor:
            masks = upsample(activations[image, step], batch.images)
            low = per_question(masks.flatten(1).amin(1), masks)
            span = per_question(masks.flatten(1).amax(1), masks) - low
            return batch.images[image] * ((masks - low) / span.where(span > 0, 1.0))[:, None]

        def fold(answer: Answer) -> None:
            scores[answer.target, answer.image, answer.step] = answer.probability

        yield Questions(features, make, fold, key=("scorecam", layer))
        cams = torch.einsum("tif,if...->ti...", scores.softmax(-1), activations).relu()
        return torch.stack([upsample(cam, batch.images) for cam in cams])
