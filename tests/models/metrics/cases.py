"""Small networks, images and maps whose metrics are known by hand."""

from typing import Any, get_args

import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_random import ControlRandom
from models.metrics import METRICS as REGISTRY
from models.metrics import Metric, Values, evaluate
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes

SHAPES = {2: (20, 16), 3: (10, 9, 8)}
B = Classes(classes=("b",))
NAMES = [name for kind in REGISTRY.kinds.values() for name in get_args(kind.model_fields["name"].annotation)]
FEW: dict[str, dict[str, Any]] = {
    "deletion": {"points": 4, "patch": 4},
    "insertion": {"points": 4, "patch": 4},
    "effective_complexity": {"points": 4, "patch": 4, "tolerance": 0.03},
    "sensitivity_n": {"sets": 4, "patch": 1},
    "infidelity": {"squares": 6, "side": 4},
    "max_sensitivity": {"samples": 2},
    "relative_input_stability": {"samples": 2},
    "relative_output_stability": {"samples": 2},
    "relative_representation_stability": {"samples": 2},
    "smooth_mprt": {"samples": 2},
    "irof": {"segments": 5},
    "selectivity": {"points": 4},
    "impact_score": {"patch": 4, "share": 0.5, "falls_to": 0.9},
    "hit_rate": {"tolerance_mm": 1.5},
}
METRICS = [REGISTRY.adapter.validate_python({"name": name, **FEW.get(name, {})}) for name in NAMES]
"""Every metric by each of its names, with parameters that ask little."""


def network_of(module: nn.Module, dims: int, activation: Any = "identity", channels: int = 1) -> Network:
    config = NetworkConfig(
        network={"_target_": "tests.Network"},
        classes=("a", "b"),
        channels=channels,
        input_shape=SHAPES[dims],
        activation=activation,
    )
    return Network(module.double(), config)


def linear(dims: int, activation: Any = "identity") -> tuple[Network, Tensor]:
    """A linear network, and its weights for class b."""
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(torch.Size(SHAPES[dims]).numel(), 2))
    network = network_of(module, dims, activation)
    return network, module[1].weight[1].view(SHAPES[dims])


def curved(dims: int, activation: Any = "softmax") -> Network:
    """A small network that is not linear."""
    torch.manual_seed(1)
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    module = nn.Sequential(
        conv(1, 4, 3, padding=1),
        nn.ReLU(),
        conv(4, 6, 3, padding=1),
        nn.ReLU(),
        pool(2),
        nn.Flatten(),
        nn.LazyLinear(2),
    ).double()
    module(images(dims))
    with torch.no_grad():
        module[-1].weight *= 20  # so that probabilities differ
    return network_of(module, dims, activation)


def images(dims: int, count: int = 3, seed: int = 4) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, 1, *SHAPES[dims], dtype=torch.float64, generator=generator)


def names(count: int) -> tuple[str, ...]:
    return tuple(f"image-{row}" for row in range(count))


def boxes(dims: int, count: int = 3) -> Tensor:
    """A box in each image, of another size and place in each."""
    masks = torch.zeros(count, *SHAPES[dims], dtype=torch.bool)
    for row, mask in enumerate(masks):
        mask[(slice(1 + row, 4 + 2 * row),) * dims] = True
    return masks


def values_of(network: Network, metric: Metric, batch: Tensor, maps: Tensor, **given: Any) -> Values:
    """The score of maps ``(image, *space)``, or ``(image, explainer, *space)``, for class b."""
    maps = maps[:, None] if maps.ndim == batch.ndim - 1 else maps
    engine = given.pop("engine", None) or Engine(network, [ControlRandom()] * maps.shape[1], B, batch_size=5)
    return evaluate(engine, [metric], batch, names(len(batch)), maps[:, None], **given)[0]
