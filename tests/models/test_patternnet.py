"""PatternNet against gradients by patterns in double precision, the paper's toy, and networks of many layers."""

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.pattern_attribution import PatternAttribution
from models.explainers.patternnet import PatternNet
from models.network import Network
from models.network_config import NetworkConfig
from models.networks.bag_of_slices import BagOfSlices
from models.rules.patterns import learn_patterns
from models.targets import Classes, Predicted
from models.windows import Windows
from tests.models.networks import difference, make, names, wrap

B = Classes(classes=("b",))
SIDES = {2: (12, 10), 3: (8, 9, 8)}


def explain(network: Network, explainer: Any, batch: Tensor, **options: Any) -> Tensor:
    return Engine(network, [explainer], B, **options).explain(batch, names(batch)).maps[:, 0, 0]


def batch(dims: int = 2, count: int = 8) -> Tensor:
    return torch.randn(count, 1, *SIDES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def chain(layers: int, dims: int = 2, features: int = 6) -> nn.Sequential:
    torch.manual_seed(0)
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    widths = (1, *[features] * layers)
    body = [part for i in range(layers) for part in (conv(widths[i], features, 3, padding=1), nn.ReLU())]
    return nn.Sequential(*body, pool(1), nn.Flatten(), nn.Linear(features, 4)).double()


def signal(network: Network, images: Tensor, background: Tensor) -> Tensor:
    """The signal as it is, by autograd through patterns: activations are those of the network, weights are not."""
    patterns, found = learn_patterns(network, background), []
    for image in images.split(1):
        values, last = image, image.clone().requires_grad_()
        by_pattern = last
        for name, layer in network.module.named_children():
            values_before = values
            values = layer(values)
            if name in patterns:
                other = deepcopy(layer)
                other.weight.data, other.bias.data = patterns[name], torch.zeros_like(layer.bias)
                by_pattern = other(by_pattern)
            elif isinstance(layer, nn.ReLU):
                by_pattern = by_pattern * (values_before > 0)
            else:
                by_pattern = layer(by_pattern)
        (gradient,) = torch.autograd.grad(by_pattern[:, 1].sum(), last)
        found.append(gradient[0, 0] * values[0, 1].sign())
    return torch.stack(found)


def scaled(maps: Tensor) -> Tensor:
    return maps / maps.abs().flatten(1).amax(1).view(-1, *[1] * (maps.ndim - 1))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_direction_is_that_of_the_gradient_by_patterns(dims: int) -> None:
    network, images = wrap(chain(3, dims), dims, shape=SIDES[dims]), batch(dims)
    found = explain(network, PatternNet(), images[:3], fitted={"background": images[3:]})
    assert difference(found, scaled(signal(network, images[:3], images[3:]))) < 1e-9
    assert (found.abs().flatten(1).amax(1) == 1).all()


def test_the_toy_of_the_paper_shows_the_signal_and_not_the_weights() -> None:
    """Kindermans et al. 2018, section 2: weights look away from a distractor."""
    torch.manual_seed(0)
    pattern, distractor = torch.randn(120).double(), torch.randn(120).double()
    weight = pattern - (pattern @ distractor) / (distractor @ distractor) * distractor
    strength, noise = torch.randn(1000, 1).double(), torch.randn(1000, 1).double()
    images = (strength * pattern + 2 * noise * distractor).view(-1, 1, *SIDES[2])
    module = nn.Sequential(nn.Flatten(), nn.Linear(120, 4, bias=False)).double()
    module[1].weight.data = weight.expand(4, -1).clone()
    found = explain(wrap(module, shape=SIDES[2]), PatternNet(), images[:4], fitted={"background": images})
    expected = scaled((strength[:4].sign() * pattern).view(4, *SIDES[2]))
    assert difference(found, expected) < 0.15


def test_signals_of_many_layers_stay_finite_in_single_precision() -> None:
    module, images = chain(80), batch()
    with torch.no_grad():  # each layer's outputs have mean 0 and deviation 1, as after a norm
        values = images
        for layer in module:
            if isinstance(layer, nn.Conv2d):
                outputs = layer(values)
                layer.bias.copy_((layer.bias - outputs.mean((0, 2, 3))) / outputs.std())
                layer.weight /= outputs.std()
            values = layer(values)
    exact = wrap(module, shape=SIDES[2])
    expected = signal(exact, images[:2], images[2:])
    assert float(expected.abs().max()) > torch.finfo(torch.float32).max
    single = Network(module.float(), exact.config)
    found = explain(single, PatternNet(), images[:2].float(), fitted={"background": images[2:].float()})
    assert found.isfinite().all()
    cosine = nn.functional.cosine_similarity(found.double().flatten(1), scaled(expected).flatten(1))
    assert cosine.min() > 0.99


def test_each_image_has_its_own_target_whatever_is_beside_it() -> None:
    network, images = wrap(chain(2), shape=SIDES[2]), batch()
    engine = Engine(network, [PatternNet(), PatternAttribution()], Predicted(k=2), 3, {"background": images[5:]})
    together = engine.explain(images[:5], names(images[:5])).maps
    alone = [engine.explain(images[[row]], names(images)[row : row + 1]).maps for row in range(5)]
    assert difference(torch.cat(alone), together) < 1e-9


def test_one_output_that_stands_for_two_classes_is_no_branch() -> None:
    module, images = chain(2), batch()
    module[-1] = nn.Linear(6, 1).double()
    config = NetworkConfig(
        network={"_target_": "tests.Network"},
        classes=("a", "b"),
        channels=1,
        input_shape=SIDES[2],
        activation="sigmoid",
    )
    engine = Engine(Network(module, config), [PatternNet()], Classes(classes=("a", "b")), 8, {"background": images[3:]})
    one, other = engine.explain(images[:3], names(images[:3])).maps[:, :, 0].unbind(1)
    assert difference(one, other) < 1e-12  # the signal is the same, of both signs of the score


@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121", "AttentionGated"])
def test_branches_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"patternnet: .* no rule for \w+ of two branches"):
        Engine(make(name, 2), [PatternNet()], B)


class Normed(nn.Module):
    """A network whose BatchNorm comes after a ReLU, so that it is not folded; or what that norm is by hand."""

    def __init__(self, by_hand: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head = nn.Conv2d(1, 5, 3), nn.Conv2d(5, 6, 3), nn.Linear(6, 4)
        self.norm, self.by_hand = nn.BatchNorm2d(5), by_hand
        self.norm.running_var.copy_(torch.tensor([0.01, 0.1, 1.0, 2.0, 9.0]))
        self.norm.weight.data.copy_(torch.tensor([1.0, -2.0, 0.5, 1.0, 3.0]))
        self.double()
        if by_hand:
            scale = self.norm.weight / (self.norm.running_var + self.norm.eps).sqrt()
            self.second.weight.data *= scale.view(1, -1, 1, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        return self.head(self.second(x if self.by_hand else self.norm(x)).relu().mean((2, 3)))


@pytest.mark.parametrize("explainer", [PatternNet(), PatternAttribution()], ids=lambda explainer: explainer.name)
def test_a_norm_that_is_not_folded_has_a_pattern(explainer: Any) -> None:
    images = batch()
    found, by_hand = (
        explain(wrap(Normed(by_hand), shape=SIDES[2]), explainer, images[:3], fitted={"background": images[3:]})
        for by_hand in (False, True)
    )
    assert difference(found, by_hand) < 1e-9


class Computed(nn.Module):
    def __init__(self, how: str) -> None:
        super().__init__()
        self.how, self.first, self.second = how, nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1)
        self.norm, self.head = nn.GroupNorm(2, 4), nn.Linear(4, 4)
        if how == "weight":
            nn.utils.parametrizations.weight_norm(self.first)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x).relu()
        if self.how == "norm":
            x = self.norm(x)
        if self.how == "gate":
            x = x * self.second(x).mean((2, 3), keepdim=True).sigmoid()
        if self.how == "in part":
            other = self.second(x).relu()
            x = x.clone()
            x[:, :2] = other[:, :2]
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize(
    ("how", "explainer", "message"),
    [
        ("weight", PatternNet(), "no pattern for a linear layer whose weight is computed"),
        ("weight", PatternAttribution(), "no pattern for a linear layer whose weight is computed"),
        ("norm", PatternNet(), "no rule for group_norm, which has no pattern"),
        ("norm", PatternAttribution(), "no rule for group_norm, which has no pattern"),
        ("gate", PatternNet(), "no rule for mul of two branches"),
        ("in part", PatternNet(), "no rule for __setitem__ of two branches"),
    ],
    ids=lambda value: getattr(value, "name", value),
)
def test_layers_without_a_pattern_are_refused(how: str, explainer: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Engine(wrap(Computed(how).double(), shape=SIDES[2]), [explainer], B)


def test_rows_that_are_no_images_and_windows_are_refused() -> None:
    with pytest.raises(ValueError, match=r"patternnet: .* no rule for"):
        Engine(wrap(BagOfSlices(1, 4, "mean"), 3, shape=(4, 24, 24)), [PatternNet()], B)
    network = wrap(chain(2), shape=SIDES[2])
    network.config = network.config.model_copy(update={"windows": Windows(image_shape=(24, 20))})
    with pytest.raises(ValueError, match=r"patternnet: .* model.windows .* use pattern_attribution"):
        Engine(network, [PatternNet()], B)
