"""Our side of `make bench-peers`: the engine, from images to maps with their flags."""

import sys
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers import Explainer
from models.explainers.gradcam import GradCAM
from models.explainers.gradcam_plusplus import GradCAMPlusPlus
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.layercam import LayerCAM
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.explainers.smoothgrad import SmoothGrad
from models.metrics import Metric, evaluate
from models.metrics.deletion import Deletion
from models.metrics.entropy import Entropy
from models.metrics.gini import Gini
from models.metrics.relevance_rank import RelevanceRank
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes
from tests.benchmarks.peers_work import (
    CLASSES,
    NOISE,
    POINTS,
    SAMPLES,
    STEPS,
    STRIDE,
    TARGET,
    WINDOW,
    Method,
    Work,
    serve,
)

EXPLAINERS: dict[str, Explainer] = {
    "gradient": Saliency(),
    "gradient times image": InputXGradient(),
    "Grad-CAM": GradCAM(),
    "Grad-CAM++": GradCAMPlusPlus(),
    "LayerCAM": LayerCAM(),
    "guided backprop": GuidedBackprop(),
    "SmoothGrad": SmoothGrad(samples=SAMPLES, noise_level=NOISE),
    "integrated gradients": IntegratedGradients(steps=STEPS),
    "occlusion": Occlusion(window=WINDOW, stride=STRIDE),
}
METRICS: dict[str, Metric] = {
    "Gini index": Gini(),
    "entropy": Entropy(),
    "relevance rank": RelevanceRank(),
    "deletion": Deletion(points=POINTS, patch=1),
}


def engine_of(module: nn.Module, work: Work, explainer: Explainer, batch: int) -> Engine:
    names = tuple("abcd"[:CLASSES])
    config = NetworkConfig(network={"_target_": "a.B"}, classes=names, input_shape=tuple(work.images.shape[2:]))
    return Engine(Network(module, config), [explainer], Classes(classes=(names[TARGET],)), batch)


def names_of(work: Work) -> list[str]:
    return [str(number) for number in range(len(work.images))]


def explained(explainer: Explainer, engine: Engine, work: Work) -> Tensor:
    return engine.explain(work.images, names_of(work)).maps[:, 0, 0]


def evaluated(metric: Metric, engine: Engine, work: Work) -> Tensor:
    spacing = torch.ones(len(work.images), 2)
    [found] = evaluate(
        engine, [metric], work.images, names_of(work), work.maps[:, None, None], work.masks.bool(), spacing
    )
    return found.curves["probability"][:, 0, 0, 1:] if metric.name == "deletion" else found.value[:, 0, 0]


class Ready:
    """A method whose engine is built once, as it is for a cohort."""

    def __init__(self, explainer: Explainer, run: Method) -> None:
        self.engines: dict[int, Engine] = {}
        self.explainer, self.run = explainer, run

    def __call__(self, module: nn.Module, work: Work, batch: int) -> Tensor:
        if batch not in self.engines:
            self.engines[batch] = engine_of(module, work, self.explainer, batch)
        return self.run(self.engines[batch], work)


METHODS: dict[str, Method] = {
    **{name: Ready(one, partial(explained, one)) for name, one in EXPLAINERS.items()},
    **{name: Ready(Saliency(), partial(evaluated, one)) for name, one in METRICS.items()},
}


if __name__ == "__main__":
    serve(Path(sys.argv[1]), METHODS, {"methods": list(METHODS)})
