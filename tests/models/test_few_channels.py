"""Gradients with respect to few channels: those of torch, and taken by no other way where rules look on."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models import few_channels as module
from models.engine import Engine
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.lrp import LRP
from models.explainers.saliency import Saliency
from models.few_channels import few_channels
from models.targets import Classes
from tests.models.networks import images, make

CONVOLUTIONS = {2: functional.conv2d, 3: functional.conv3d}


@pytest.mark.parametrize(
    ("dims", "channels", "kernel", "stride", "padding"),
    [
        (2, 1, 7, 2, 3),
        (2, 3, (3, 5), (1, 3), (1, 0)),
        (2, 2, 4, 4, 0),
        (2, 1, 1, 3, 0),
        (2, 1, 3, 1, 5),
        (3, 1, 7, 2, 3),
        (3, 2, (1, 3, 2), (1, 2, 2), (0, 1, 1)),
    ],
)
def test_gradient_is_that_of_torch(dims: int, channels: int, kernel: Any, stride: Any, padding: Any) -> None:
    torch.manual_seed(0)
    sides = [kernel] * dims if isinstance(kernel, int) else kernel
    weight = torch.randn(5, channels, *sides, dtype=torch.float64)
    image = torch.randn(3, channels, *(19, 14, 11)[:dims], dtype=torch.float64, requires_grad=True)

    def gradient() -> Tensor:
        answer = CONVOLUTIONS[dims](image, weight, None, stride, padding)
        (found,) = torch.autograd.grad(answer.sin().sum(), image)
        return found

    expected = gradient()
    with few_channels():
        found = gradient()
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    assert found.shape == image.shape


@pytest.mark.parametrize(
    "changed",
    [{"dilation": 2}, {"padding": "same"}, {"groups": 3}, {"channels": 4}, {"learns": True}, {"grad": False}],
    ids=str,
)
def test_any_other_convolution_stays_as_it_is(changed: dict[str, Any]) -> None:
    options = {"channels": 3, "learns": False, "grad": True} | changed
    channels, learns, grad = (options.pop(name) for name in ("channels", "learns", "grad"))
    weight = torch.randn(6, channels // options.get("groups", 1), 3, 3, requires_grad=learns)
    image = torch.randn(2, channels, 9, 8, requires_grad=grad)
    with few_channels():
        answer = functional.conv2d(image, weight, **options)
    assert "_Convolution" not in str(answer.grad_fn)
    assert torch.equal(answer, functional.conv2d(image, weight, **options))


def test_gradient_of_the_gradient_is_there() -> None:
    image = torch.randn(2, 1, 6, 5, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(4, 1, 3, 3, dtype=torch.float64)
    with few_channels():
        assert torch.autograd.gradgradcheck(lambda image: functional.conv2d(image, weight).pow(3), image)


def _exported(layer: nn.Module, image: Tensor) -> Tensor:
    return torch.export.export(layer, (image.detach(),)).module()(image)


@pytest.mark.parametrize(
    "call",
    [
        _exported,  # leaves out what is as by default, and takes no single numbers
        lambda layer, image: checkpoint(lambda part: layer(part).square(), image, use_reentrant=False),
        lambda layer, image: torch.func.grad(lambda part: layer(part).square().sum())(image),
        lambda layer, image: torch.vmap(torch.func.grad(lambda part: layer(part[None]).square().sum()))(image),
    ],
    ids=["exported", "checkpoint", "grad", "vmap"],
)
@pytest.mark.parametrize("options", [{}, {"dilation": 2}], ids=str)
def test_network_may_call_a_convolution_in_any_way(
    call: Callable[[nn.Module, Tensor], Tensor], options: dict[str, Any]
) -> None:
    layer = nn.Conv2d(2, 3, 3, dtype=torch.float64, **options).requires_grad_(False)
    image = torch.randn(4, 2, 8, 7, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(call(layer, image).sum(), image)
    with few_channels():
        answer = call(layer, image)
    (found,) = torch.autograd.grad(answer.sum(), image)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_weights_of_one_channel_are_laid_out_channels_last(dims: int) -> None:
    weight = make("ResNet18", dims).module.get_submodule("conv1").weight
    assert weight.shape[1] == 1
    assert weight.stride(1) == 1
    assert weight.stride(-1) == 1
    assert weight.stride(0) == weight[0].numel()
    assert weight.stride() != torch.empty(weight.shape).stride()


@pytest.mark.parametrize(("explainer", "is_fast"), [(Saliency(), True), (GuidedBackprop(), True), (LRP(), False)])
def test_faster_way_is_taken_where_no_rule_sees_convolutions(
    explainer: Any, is_fast: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken: list[Any] = []
    network = make("ResNet18", 2)
    engine = Engine(network, [explainer], Classes(classes=("a",)))
    one = images(2, count=1)
    fast = engine.explain(one, ["x"]).maps
    monkeypatch.setattr(module, "_of_input", lambda *args, real=module._of_input: taken.append(1) or real(*args))
    monkeypatch.setattr(module, "_MOST", 1)
    again = engine.explain(one, ["x"]).maps
    assert torch.equal(again, fast)
    assert bool(taken) == is_fast
    monkeypatch.setattr(module, "_MOST", 0)
    torch.testing.assert_close(engine.explain(one, ["x"]).maps, fast, rtol=1e-9, atol=1e-9 * float(fast.abs().max()))
