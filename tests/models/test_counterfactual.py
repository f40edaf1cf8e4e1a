"""Counterfactuals: the smallest change where it is known, whatever the batch, and only where a prediction can turn."""

from typing import Any

import pytest
import torch
from monai.networks.nets import AutoencoderKL, VarAutoEncoder
from torch import Tensor, nn

from models.autoencoders import Autoencoder, AutoencoderConfig, load_autoencoder
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.counterfactual import Counterfactual
from models.explainers.saliency import Saliency
from models.flags import MapFlag
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier
from models.networks.bag_of_slices import BagOfSlices
from models.records import RecordField
from models.targets import Classes, Difference, OverThreshold, Predicted, Region, Target
from models.windows import Windows
from tests.models.networks import CLASSES, difference, names

SHAPES = {2: (16, 12), 3: (8, 6, 10)}
LATENT = 5


class Linear(nn.Module):
    """A principal component analysis: latent means are projections."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        count = torch.Size(shape).numel()
        basis, _ = torch.linalg.qr(torch.randn(count, LATENT, generator=generator))
        self.shape, self.basis = shape, nn.Parameter(basis)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        means = (images.flatten(1) - 1) @ self.basis
        return means, torch.ones_like(means)

    def decode(self, latent: Tensor) -> Tensor:
        return (latent @ self.basis.T + 1).unflatten(1, self.shape)


class Given(Counterfactual):
    """A counterfactual whose autoencoder is made by a test."""

    autoencoder: AutoencoderConfig = AutoencoderConfig(network={"_target_": "tests.Linear"})

    def load(self, network: Network) -> Autoencoder:
        return Autoencoder(Linear((network.config.channels, *network.config.input_shape)), network)


def network_of(
    module: nn.Module, shape: tuple[int, ...] = SHAPES[2], channels: int = 1, classes: int = 2, **changes: Any
) -> Network:
    config = NetworkConfig(classes=CLASSES[:classes], channels=channels, input_shape=shape, **changes)
    return Network(module.double(), config, fields=changes.pop("fields", ()))


def linear(dims: int = 2, channels: int = 1, classes: int = 2, **changes: Any) -> Network:
    torch.manual_seed(3)
    count = channels * torch.Size(SHAPES[dims]).numel()
    return network_of(nn.Sequential(nn.Flatten(), nn.Linear(count, classes)), SHAPES[dims], channels, classes, **changes)


def curved(classes: int = 4, channels: int = 1) -> Network:
    torch.manual_seed(5)
    module = nn.Sequential(
        *(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(8 * 6 * 4, classes),
    )
    return network_of(module, channels=channels, classes=classes)


def images(network: Network, count: int = 6) -> Tensor:
    shape = (count, network.config.channels, *network.config.input_shape)
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def explained(network: Network, target: Target, batch: Tensor, size: int = 16, **parameters: Any) -> dict[str, Tensor]:
    return Engine(network, [Given(**parameters)], target, size).explain(batch, names(batch)).outputs


def margin_of(network: Network, target: Target, batch: Tensor) -> Tensor:
    """How far a target is ahead, written down once more: above 0 where the network decides for it."""
    logits = network(batch)
    if isinstance(target, Difference):
        return logits[:, 0] - logits[:, 1]
    if network.config.activation == "sigmoid":
        return logits[:, 1]
    others = torch.cat([logits[:, :1], logits[:, 2:]], 1)
    return logits[:, 1] - others.amax(1)


CASES: list[tuple[int, int, str, Target]] = [
    (2, 1, "softmax", Classes(classes=("b",))),
    (2, 3, "softmax", Classes(classes=("b",))),
    (3, 1, "softmax", Classes(classes=("b",))),
    (2, 1, "sigmoid", Classes(classes=("b",))),
    (2, 1, "softmax", Difference(of="a", against="b")),
]


@pytest.mark.parametrize(("dims", "channels", "activation", "target"), CASES)
def test_on_a_linear_network_the_change_is_the_projection_onto_the_boundary(
    dims: int, channels: int, activation: str, target: Target
) -> None:
    network = linear(dims, channels, activation=activation)
    batch = images(network)
    found = explained(network, target, batch, longest=100.0)

    (weight, _) = network.module.parameters()
    basis = Linear((channels, *SHAPES[dims])).double().basis
    w = weight[1] if activation == "sigmoid" else weight[0] - weight[1]
    normal = basis.T @ w
    margin = margin_of(network, target, batch)
    moved = (margin.abs() / normal.square().sum())[:, None] * normal  # in the latent space
    apart = (found["counterfactual"][:, 0] - batch).flatten(1)
    assert difference(apart.abs(), (moved @ basis.T).abs()) < 2e-3
    assert torch.equal(found["counterfactual_valid"], torch.ones(len(batch), 1).double())
    assert (margin * margin_of(network, target, found["counterfactual"][:, 0]) < 0).all()
    expected = [moved.norm(dim=1), (moved @ basis.T).abs().sum(1), (moved @ basis.T).norm(dim=1)]
    assert difference(found["counterfactual_distance"][:, 0], torch.stack(expected, 1)) < 2e-3
    assert torch.equal(found["attribution"][:, 0, 0], apart.view(batch.shape).abs().amax(1))
    if not isinstance(target, Difference):
        assert difference(found["counterfactual_probability"], torch.full((len(batch), 1), 0.5)) < 0.05
