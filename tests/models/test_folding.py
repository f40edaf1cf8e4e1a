"""BatchNorm folded away: the network's answers stay what they were."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.gradcam import GradCAM
from models.explainers.saliency import Saliency
from models.targets import Classes
from tests.models.networks import NETWORKS, difference, images, wrap

NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def random_norms(module: nn.Module) -> nn.Module:
    """BatchNorms as after a training."""
    for part in module.modules():
        if isinstance(part, NORMS):
            part.running_mean.normal_(), part.running_var.uniform_(0.5, 2)
            nn.init.normal_(part.weight, 1.0, 0.2), nn.init.normal_(part.bias)
    return module.double().eval()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_logits_and_gradients_are_those_of_the_network_as_it_came(name: str, dims: int) -> None:
    torch.manual_seed(0)
    module = random_norms(NETWORKS[name](dims, 1))
    original, batch = copy.deepcopy(module), images(dims, count=1)
    network = wrap(module, dims)
    norms = [sum(isinstance(part, NORMS) for part in of.modules()) for of in (original, network.module)]
    assert norms[1] < norms[0]
    inputs = batch.clone().requires_grad_()
    logits = original(inputs)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), inputs)
    found = Engine(network, [Saliency()], Classes(classes=("b",))).explain(batch, ("x",))
    assert torch.allclose(found.logits, logits.detach())
    assert difference(found.maps[:, 0, 0], gradient[:, 0]) < 1e-9


def test_linear_and_transposed_layers_are_folded_too() -> None:
    torch.manual_seed(0)
    module = random_norms(
        nn.Sequential(nn.ConvTranspose2d(1, 3, 2, stride=2), nn.BatchNorm2d(3), nn.ReLU(), nn.AdaptiveMaxPool2d(2),
                      nn.Flatten(), nn.Linear(12, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 4))
    )  # fmt: skip
    expected = module(images(2))
    network = wrap(module)
    assert not any(isinstance(part, NORMS) for part in network.module.modules())
    assert torch.allclose(network(images(2)), expected)


def test_a_layer_whose_output_goes_elsewhere_too_is_left_alone() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.one, self.second, self.two = (
                nn.Conv2d(1, 3, 3), nn.BatchNorm2d(3), nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)
            )  # fmt: skip
            self.head = nn.Linear(3, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x)
            return self.head((x + self.two(self.second(self.one(x).relu()))).mean((2, 3)))

    torch.manual_seed(0)
    module = random_norms(Branching())
    expected = module(images(2))
    network = wrap(module)
    assert isinstance(network.module.one, nn.BatchNorm2d)
    assert isinstance(network.module.two, nn.Identity)
    assert torch.allclose(network(images(2)), expected)


def test_a_layer_that_is_used_twice_is_left_alone() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm, self.head = nn.Conv2d(1, 1, 3, padding=1), nn.BatchNorm2d(1), nn.Linear(1, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.conv(self.norm(self.conv(x)).relu()).mean((2, 3)))

    torch.manual_seed(0)
    module = random_norms(Shared())
    expected = module(images(2))
    assert torch.allclose(wrap(module)(images(2)), expected)


def test_a_folded_layer_is_named_by_its_batch_norm() -> None:
    network = wrap(NETWORKS["ResNet18"](2, 1))
    with pytest.raises(
        ValueError, match=r"'layer4.1.conv2' is folded with the BatchNorm after it: name 'layer4.1.bn2'"
    ):
        network.layer("layer4.1.conv2")
    assert Engine(network, [GradCAM(layer="layer4.1.bn2")], Classes(classes=("b",))).explain(images(2), "abcde")


class Folded(nn.Module):
    """A layer, its BatchNorm and a pooled head."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.first, self.layer, self.norm, self.head = nn.Conv2d(1, 4, 3), layer, nn.BatchNorm2d(4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.norm(self.layer(self.first(x))).relu().mean((2, 3)))


@pytest.mark.parametrize(
    ("make", "is_folded"),
    [
        (lambda: nn.Conv2d(4, 4, 3, groups=2), True),
        (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2), True),
        (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, groups=2), False),
        (lambda: nn.ConvTranspose2d(4, 4, 3, stride=2, groups=4), False),
        (lambda: nn.utils.parametrizations.weight_norm(nn.Conv2d(4, 4, 3)), False),
        (lambda: nn.utils.weight_norm(nn.Conv2d(4, 4, 3)), False),
        (lambda: nn.utils.parametrizations.spectral_norm(nn.Conv2d(4, 4, 3)), False),
    ],
)
def test_what_torch_does_not_fuse_is_left_alone(make: Callable[[], nn.Module], is_folded: bool) -> None:
    torch.manual_seed(0)
    module = random_norms(Folded(make()))
    expected = module(images(2)).detach()
    network = wrap(module)
    assert isinstance(network.module.norm, nn.Identity) == is_folded
    assert torch.allclose(network(images(2)), expected)


@pytest.mark.parametrize("bias", [0.0, 1e3, 1e6])
def test_a_large_bias_hides_no_fold_that_is_wrong(bias: float) -> None:
    """The BatchNorm takes what a ReLU left in the place of the convolution's output."""
    torch.manual_seed(0)
    module = random_norms(
        nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.Conv2d(6, 6, 3),
                      nn.ReLU(inplace=True), nn.BatchNorm2d(6), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    )  # fmt: skip
    module[-1].bias.data.fill_(bias)
    original, batch = copy.deepcopy(module), images(2, count=2)
    inputs = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(original(inputs)[:, 1].sum(), inputs)
    found = Engine(wrap(module), [Saliency()], Classes(classes=("b",))).explain(batch, "xy")
    assert difference(found.maps[:, 0, 0], gradient[:, 0]) < 1e-9


def test_a_network_that_looks_into_its_batch_norm_keeps_it() -> None:
    class Looking(Folded):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * self.norm.num_features

    torch.manual_seed(0)
    module = random_norms(Looking(nn.Conv2d(4, 4, 3)))
    expected = module(images(2)).detach()
    assert torch.allclose(wrap(module)(images(2)), expected)
