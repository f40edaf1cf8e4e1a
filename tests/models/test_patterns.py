"""Patterns: the toy of the paper, covariances place by place, and what holds for linear networks."""

from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.pattern_attribution import PatternAttribution
from models.explainers.patternnet import PatternNet
from models.explainers.saliency import Saliency
from models.network import Network
from models.rules import patterns
from models.targets import Classes
from tests.models.networks import difference, names, wrap

B = Classes(classes=("b",))
SIDES = {2: (6, 5), 3: (4, 5, 4)}
CONV = {2: nn.Conv2d, 3: nn.Conv3d}


def explain(module: nn.Module, explainer: Any, images: Tensor, background: Tensor, channels: int = 1) -> Tensor:
    network = wrap(module, images.ndim - 2, channels, shape=tuple(images.shape[2:]))
    engine = Engine(network, [explainer], B, fitted={"background": background})
    return engine.explain(images, names(images)).maps[:, 0, 0]


def batch(dims: int, count: int, channels: int = 1) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, channels, *SIDES[dims], dtype=torch.float64, generator=generator)


def toy() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The toy of Kindermans et al. 2018, section 2: weights look away from a distractor, patterns at the signal."""
    torch.manual_seed(0)
    signal = torch.randn(30).double()
    distractor = torch.randn(30).double() + signal
    weight = signal - (signal @ distractor) / (distractor @ distractor) * distractor
    strength = torch.randn(1000, 1).double()
    images = (strength * signal + torch.randn(1000, 1).double() * distractor).view(-1, 1, *SIDES[2])
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4, bias=False)).double()
    module[1].weight.data = weight.expand(4, -1).clone()
    return module, signal, weight, images


def test_patterns_find_the_signal_where_weights_cancel_a_distractor() -> None:
    module, signal, weight, images = toy()
    scores = module(images[:2])[:, 1:2].detach()
    expected = {"signal": scores * signal / (weight @ signal)}
    expected["attribution"] = expected["signal"] * weight
    found = explain(module, PatternAttribution(), images[:2], images)
    assert difference(found.flatten(1), expected["attribution"]) < 0.15
    assert difference(explain(module, InputXGradient(), images[:2], images).flatten(1), expected["attribution"]) > 0.5
    assert difference(explain(module, PatternNet(), images[:2], images).flatten(1), expected["signal"]) < 0.15

    def likeness(maps: Tensor) -> Tensor:
        return torch.cosine_similarity(maps.flatten(1), signal[None]).abs()

    assert likeness(explain(module, PatternNet(), images[:2], images)).min() > 0.99
    assert likeness(explain(module, Saliency(), images[:2], images)).max() < 0.8


def test_of_a_linear_network_the_signal_makes_the_whole_score_and_the_attribution_is_its_share() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4, bias=False)).double()
    images, background = batch(2, 3), batch(2, 40)[3:]
    signal, attribution = (explain(module, kind, images, background) for kind in (PatternNet(), PatternAttribution()))
    weight = module[1].weight[1].detach().view(SIDES[2])
    torch.testing.assert_close((weight * signal).flatten(1).sum(1), module(images)[:, 1].detach())
    torch.testing.assert_close(attribution, weight * signal)


def patterns_by_hand(module: nn.Sequential, background: Tensor) -> tuple[NDArray[Any], NDArray[Any]]:
    """The patterns of a convolution of one channel, and of the linear layer's class b."""
    taken: list[list[NDArray[Any]]] = [[] for _ in range(3)]
    outputs: list[list[float]] = [[] for _ in range(3)]
    for image, answer in zip(background[:, 0].numpy(), module[0](background).detach().numpy(), strict=True):
        for place in np.ndindex(*answer.shape[1:]):
            patch = image[tuple(slice(at, at + 3) for at in place)]
            for feature in range(3):
                if (y := answer[(feature, *place)]) > 0:
                    taken[feature].append(patch.ravel())
                    outputs[feature].append(y)
    first = []
    for weight, patches, answers in zip(module[0].weight.detach().numpy(), taken, outputs, strict=True):
        first.append(pattern_of(weight.ravel(), np.array(patches), np.array(answers)))
    hidden, logit = module[:3](background).detach().numpy(), module(background)[:, 1].detach().numpy()
    over = logit > 0
    return np.stack(first), pattern_of(module[3].weight[1].detach().numpy(), hidden[over], logit[over])


def pattern_of(weight: NDArray[Any], x: NDArray[Any], y: NDArray[Any]) -> NDArray[Any]:
    covariance = (x * y[:, None]).mean(0) - x.mean(0) * y.mean()
    assert weight @ covariance > 0
    return np.asarray(covariance / (weight @ covariance))


@pytest.mark.parametrize("explainer", [PatternAttribution(), PatternNet()], ids=lambda one: one.name)
@pytest.mark.parametrize("dims", [2, 3])
def test_patterns_are_covariances_where_the_output_is_positive(dims: int, explainer: Any) -> None:
    torch.manual_seed(0)
    features = 3 * int(np.prod([side - 2 for side in SIDES[dims]]))
    module = nn.Sequential(CONV[dims](1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(features, 4)).double()
    images, background = batch(dims, 2), batch(dims, 9)[2:]
    found = explain(module, explainer, images, background)
    first, last = patterns_by_hand(module, background)
    if explainer.name == "pattern_attribution":
        first *= module[0].weight.flatten(1).detach().numpy()
        last *= module[3].weight[1].detach().numpy()
    conv = CONV[dims](1, 3, 3, bias=False).double()
    conv.weight.data = torch.as_tensor(first).view_as(conv.weight)
    inputs = images.clone().requires_grad_()
    back = torch.as_tensor(last).view(1, 3, *[side - 2 for side in SIDES[dims]]) * (module[0](images) > 0)
    (gradient,) = torch.autograd.grad(conv(inputs), inputs, back)
    score = module(images)[:, 1].view(-1, 1, *[1] * dims)
    assert difference(found, (gradient * score)[:, 0].detach()) < 1e-9


def test_of_several_channels_the_strongest_is_shown_and_its_sign_is_kept() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(60, 4, bias=False)).double()
    images, background = batch(2, 3, channels=2), batch(2, 40, channels=2)[3:]
    (pattern,) = patterns.learn_patterns(wrap(module, 2, 2, shape=SIDES[2]), background).values()
    signal = (module(images)[:, 1:2].detach() * pattern[1]).view(3, 2, *SIDES[2])
    expected = signal.gather(1, signal.abs().argmax(1, keepdim=True))[:, 0]
    torch.testing.assert_close(explain(module, PatternNet(), images, background, channels=2), expected)


def test_both_explainers_learn_patterns_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    learn = patterns.learn_patterns

    def counted(network: Network, background: Tensor) -> dict[str, Tensor]:
        calls.append(len(background))
        return learn(network, background)

    monkeypatch.setattr("models.explainers.pattern_attribution.learn_patterns", counted)
    torch.manual_seed(0)
    network = wrap(nn.Sequential(nn.Flatten(), nn.Linear(30, 4)), 2, shape=SIDES[2])
    engine = Engine(network, [PatternAttribution(), PatternNet()], B, fitted={"background": batch(2, 7)})
    for images in batch(2, 6).split(3):
        engine.explain(images, names(images))
    assert calls == [7]
