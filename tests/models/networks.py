"""Networks for the tests, small and in double precision, whose batches hold several classes."""

from collections.abc import Callable
from typing import Any

import torch
from monai.networks.nets import DenseNet121, resnet18
from torch import Tensor, nn

from models.explainers import EXPLAINERS, Explainer
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier

CLASSES = ("a", "b", "c", "d")
SHAPES = {2: (64, 48), 3: (32, 36, 32)}
NETWORKS: dict[str, Callable[[int, int], nn.Module]] = {
    "DenseNet121": lambda dims, channels: DenseNet121(dims, channels, 4),
    "ResNet18": lambda dims, channels: resnet18(
        spatial_dims=dims, n_input_channels=channels, num_classes=4, conv1_t_stride=2
    ),
    "AttentionGated": lambda dims, channels: AttentionGatedClassifier(dims, channels, 4),
}


FEW: dict[str, dict[str, Any]] = {
    "occlusion": {"window": 24, "stride": 24},
    "rise": {"samples": 3},
    "smoothgrad": {"samples": 2},
    "smoothgrad_squared": {"samples": 2},
    "vargrad": {"samples": 2},
    "integrated_gradients": {"steps": 3},
    "expected_gradients": {"samples": 2},
    "expressive_gradients": {"steps": 2},
    "kernel_shap": {"samples": 8, "segments": 4},
    "lime": {"samples": 8, "segments": 4},
    "feature_ablation": {"segments": 4},
    "shapley_sampling": {"permutations": 2, "segments": 4},
}
"""Parameters of explainers that ask little."""

STANDARD = {
    name: kind
    for name, kind in EXPLAINERS.kinds.items()
    if not any(field.is_required() for field in kind.model_fields.values())
}
"""The explainers that can be named alone. One that needs a file (`tasks/plan`) has tests of its own."""


def few(name: str) -> Explainer:
    """An explainer of the registry that asks little."""
    return EXPLAINERS.adapter.validate_python({"name": name, **FEW.get(name, {})})


def make(name: str, dims: int, channels: int = 1) -> Network:
    torch.manual_seed(3)
    network = wrap(NETWORKS[name](dims, channels).double(), dims, channels)
    *_, head = (part for part in network.module.modules() if isinstance(part, nn.Linear))
    head.bias -= network.module(images(dims, channels)).mean(0)  # so that a batch holds several classes
    return network


def wrap(
    module: nn.Module,
    dims: int = 2,
    channels: int = 1,
    classes: tuple[str, ...] = CLASSES,
    shape: tuple[int, ...] | None = None,
) -> Network:
    config = NetworkConfig(
        network={"_target_": "tests.Network"}, classes=classes, channels=channels, input_shape=shape or SHAPES[dims]
    )
    return Network(module.double(), config)


def images(dims: int, channels: int = 1, count: int = 5) -> Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randn(count, channels, *SHAPES[dims], dtype=torch.float64, generator=generator)


def names(batch: Tensor) -> tuple[str, ...]:
    return tuple(f"image-{row}" for row in range(len(batch)))


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Relative L2."""
    assert theirs.norm() > 0
    return float((ours - theirs).detach().norm() / theirs.detach().norm())
