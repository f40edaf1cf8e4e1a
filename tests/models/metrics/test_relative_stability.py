"""Relative stabilities: the published formulas in a loop over the copies that the network was asked about."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_random import ControlRandom
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.saliency import Saliency
from models.metrics import METRICS, evaluate
from models.metrics.max_sensitivity import MaxSensitivity
from models.metrics.relative_input_stability import RelativeInputStability
from models.metrics.relative_output_stability import RelativeOutputStability
from models.metrics.relative_representation_stability import RelativeRepresentationStability
from models.network import Network
from tests.models.metrics.cases import SHAPES, B, curved, images, linear, names, network_of, values_of

LAYER = "2"
KINDS = [RelativeInputStability, RelativeOutputStability, RelativeRepresentationStability]


def near_a_tie(dims: int) -> Network:
    network = curved(dims)
    network.module[-1].bias -= network(images(dims)).mean(0)
    return network


def credit(network: Network, image: Tensor) -> Tensor:
    """Input times gradient of class b, of one image."""
    image = image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(image[None])[0, 1], image)
    return (image * gradient).detach().flatten()


def layer_of(network: Network, image: Tensor) -> Tensor:
    return network.module[: int(LAYER) + 1](image[None]).flatten()


def relative(before: Tensor, after: Tensor) -> float:
    largest = float(before.abs().max())
    pairs = [(float(b), float(a)) for b, a in zip(before, after, strict=True) if abs(b) > 1e-6 * largest]
    shares = [(b - a) / b for b, a in pairs]
    return sum(share**2 for share in shares) ** 0.5


def by_hand(network: Network, kind: type[Any], image: Tensor, copies: Tensor) -> float:
    ratios = []
    for copy in copies:
        before, after = network(image[None])[0], network(copy[None])[0]
        if before.argmax() != after.argmax():
            continue
        distance = {
            RelativeInputStability: lambda copy=copy: relative(image.flatten(), copy.flatten()),
            RelativeOutputStability: lambda before=before, after=after: float((before - after).norm()),
            RelativeRepresentationStability: lambda copy=copy: relative(
                layer_of(network, image), layer_of(network, copy)
            ),
        }[kind]()
        ratios.append(relative(credit(network, image), credit(network, copy)) / distance)
    return max(ratios, default=float("nan"))


@pytest.mark.parametrize("batch_size", [2, 13])  # fewer than the images, and four copies of all three together
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_the_published_formula_by_a_loop_over_the_copies(kind: type[Any], dims: int, batch_size: int) -> None:
    network, batch = near_a_tie(dims), images(dims)
    batch[:, :, :3], batch[:, :, 3, 0] = 0.0, 1e-9  # which no change is a share of
    engine = Engine(network, [InputXGradient()], B, batch_size=batch_size)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    assert (maps == 0).any()
    seen: list[Tensor] = []
    handle = network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].detach().clone()))
    more = {"layer": LAYER} if kind is RelativeRepresentationStability else {}
    value = values_of(network, kind(radius=0.4, samples=6, **more), batch, maps, engine=engine).value[:, 0, 0]
    handle.remove()
    copies = torch.cat(seen)[-18:].view(6, 3, *batch.shape[1:])
    assert (network(copies.flatten(0, 1)).argmax(1).view(6, 3) != network(batch).argmax(1)).any()
    expected = torch.tensor([by_hand(network, kind, image, copies[:, row]) for row, image in enumerate(batch)])
    assert expected.isfinite().any()
    torch.testing.assert_close(value, expected, rtol=1e-5, atol=0, equal_nan=True)  # NaN: no copy keeps the class


@pytest.mark.parametrize("dims", [2, 3])
def test_a_linear_networks_credit_moves_as_its_input_does(dims: int) -> None:
    network, _ = linear(dims)
    batch = images(dims)
    engine = Engine(network, [InputXGradient(), Saliency()], B)
    maps = engine.explain(batch, names(3)).maps[:, 0]
    value = values_of(network, RelativeInputStability(samples=3), batch, maps, engine=engine).value[:, 0]
    torch.testing.assert_close(value, torch.tensor([1.0, 0.0]).expand(3, -1), rtol=1e-5, atol=1e-9)


def test_where_no_copy_is_decided_alike_there_is_no_stability() -> None:
    class Fickle(nn.Module):
        """It decides for b if nothing is changed."""

        def forward(self, x: Tensor) -> Tensor:
            strength = 1e-9 - x.flatten(1).std(1)
            return torch.stack([-strength, strength], 1)

    network, batch = network_of(Fickle(), 2, "softmax"), torch.ones(1, 1, *SHAPES[2], dtype=torch.float64)
    batch[0, 0, 0, 0] = 1 + 1e-10
    engine = Engine(network, [ControlRandom()], B)
    maps = engine.explain(batch, names(1)).maps[:, 0]
    assert values_of(network, RelativeInputStability(radius=1e4), batch, maps, engine=engine).value.isnan().all()
    assert values_of(network, RelativeInputStability(radius=1e-9), batch, maps, engine=engine).value.isfinite().all()


def test_metrics_of_the_same_copies_explain_them_once_and_are_the_same_alone() -> None:
    network, batch = curved(2), images(2)
    metrics = [MaxSensitivity(samples=4), RelativeInputStability(samples=4), RelativeOutputStability(samples=4)]
    engine = Engine(network, [InputXGradient()], B)
    maps = engine.explain(batch, names(3)).maps
    before = engine.forward_passes
    together = evaluate(engine, metrics, batch, names(3), maps)
    assert engine.forward_passes - before == 3 * (1 + 4)
    for metric, score in zip(metrics, together, strict=True):
        assert torch.equal(evaluate(engine, [metric], batch, names(3), maps)[0].value, score.value)


def test_a_layer_that_is_not_there_is_refused_with_the_metrics_name() -> None:
    metric = METRICS.adapter.validate_python({"name": "relative_representation_stability", "layer": "22"})
    with pytest.raises(ValueError, match="relative_representation_stability: there is no layer '22'"):
        values_of(curved(2), metric, images(2), images(2)[:, 0])
