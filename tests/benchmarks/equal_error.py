"""The usual eight methods against Captum at the error that Captum's integrated gradients leave, on trained networks."""

from collections.abc import Iterator
from statistics import median

import torch
from torch import Tensor

from models.engine import Engine
from models.targets import Classes
from tests.benchmarks.demo_networks import images_of, network_of, trained
from tests.benchmarks.explainers import EXACT, PAIRS, captum_set, seconds, the_eight
from tests.benchmarks.paths_error import BATCH, midpoints
from tests.benchmarks.ratios import Ratio

IMAGES = 8
REFERENCE = 500
TOLERANCE = 0.03
GOAL = 4.0


def ratios() -> Iterator[Ratio]:
    network, module = network_of("2-D"), trained(2).eval().requires_grad_(False)
    images = images_of(network, IMAGES)
    engine = Engine(network, the_eight(16, TOLERANCE), Classes(classes=("lesion",)), BATCH)
    layer = module.get_submodule(network.layer(None))
    captum = captum_set(module, layer, images, BATCH, 16)
    limit = midpoints(network, images, torch.zeros_like(images[0]), REFERENCE)

    def ours() -> Tensor:
        return engine.explain(images, [str(number) for number in range(IMAGES)]).maps[:, 0, EXACT]

    error, theirs = (rms(maps, limit) for maps in (ours(), captum()))
    ratio = median(1 / (seconds(ours) / seconds(captum)) for _ in range(PAIRS))
    note = f"error of integrated gradients, rms; Captum's at 50 steps {theirs:.1e}"
    yield Ratio("the eight at equal error, demo network / Captum", ratio, GOAL, error, note=note)


def rms(maps: Tensor, limit: Tensor) -> float:
    """Compute the root mean square over images of the relative L2 to the limit."""
    apart = (maps - limit).flatten(1).norm(dim=1) / limit.flatten(1).norm(dim=1)
    return float(apart.detach().square().mean().sqrt())
