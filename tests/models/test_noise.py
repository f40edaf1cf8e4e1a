"""SmoothGrad and its kin: the pairs, the error that ends the sampling, and the precision of the sums."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.noise import NoisyGradient
from models.explainers.rounds import relative_error
from models.explainers.smoothgrad import SmoothGrad
from models.explainers.smoothgrad_squared import SmoothGradSquared
from models.explainers.vargrad import VarGrad
from models.flags import MapFlag
from models.network import Network
from tests.models.metrics.cases import B, images, names, network_of

KINDS = (SmoothGrad, SmoothGradSquared, VarGrad)


class Square(nn.Module):
    """Its gradient is linear in the image."""

    def forward(self, x: Tensor) -> Tensor:
        rolled = x.flatten(1) * x.flatten(1).roll(3, 1)
        return torch.stack([rolled.sum(1), -rolled.sum(1)], dim=1)


def bent(dtype: torch.dtype = torch.float64) -> Network:
    """A small network whose gradient bends with the image."""
    torch.manual_seed(2)
    layers = nn.Conv2d(1, 6, 3, padding=1), nn.GELU(), nn.Conv2d(6, 8, 3, padding=1), nn.ReLU()
    module = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(32, 2))
    network = network_of(module, 2)
    network.module.to(dtype)
    return network


def maps_of(network: Network, explainer: NoisyGradient, batch: Tensor, ids: tuple[str, ...]) -> Tensor:
    return Engine(network, [explainer], B).explain(batch, ids).maps[:, 0, 0]


def test_what_is_odd_in_the_noise_cancels_in_a_pair() -> None:
    batch = images(2)
    gradient = torch.func.vmap(torch.func.grad(lambda image: Square()(image[None])[0, 1]))(batch)[:, 0]
    found = maps_of(network_of(Square(), 2), SmoothGrad(samples=2), batch, names(3))
    torch.testing.assert_close(found, gradient, rtol=0, atol=1e-9)
    alone = maps_of(network_of(Square(), 2), SmoothGrad(samples=1), batch, names(3))
    assert ((alone - gradient).abs() > 0.1).any()


def test_copies_come_in_pairs_whatever_the_batches() -> None:
    batch, found = images(2), []
    for batch_size in (2, 3, 64):
        copies: list[Tensor] = []
        network = bent()
        engine = Engine(network, [SmoothGrad(samples=5)], B, batch_size=batch_size)
        handle = network.module.register_forward_pre_hook(lambda _, seen, into=copies: into.append(seen[0].detach()))
        engine.explain(batch, names(3))
        handle.remove()
        noise = torch.cat(copies)[3:].view(3, 5, *batch.shape[1:]) - batch[:, None]
        torch.testing.assert_close(noise[:, 1:4:2], -noise[:, :4:2], rtol=0, atol=1e-12)
        assert len({round(float(part), 9) for part in noise[:, ::2].flatten(2).norm(dim=2).flatten()}) == 9
        found.append(noise)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_the_relative_error_is_that_of_two_halves() -> None:
    torch.manual_seed(0)
    truth = torch.randn(4, 20_000).double()
    one, other = (truth + level * torch.randn_like(truth) for level in (0.3, 0.3))
    found = relative_error(one, other)
    true = ((one + other) / 2 - truth).norm(dim=1) / truth.norm(dim=1)
    torch.testing.assert_close(found, true, rtol=0.03, atol=0)
    assert relative_error(0 * one, 0 * one).tolist() == [0.0] * 4
    assert relative_error(one, -one).tolist() == [math.inf] * 4
    assert relative_error(one, one / 0).isnan().all()


@pytest.mark.parametrize("kind", KINDS)
def test_the_estimated_error_is_the_true_one_on_average(kind: type[NoisyGradient]) -> None:
    network, batch = bent(), images(2, count=8)
    reference, *halves = (
        maps_of(network, kind(samples=samples, noise_level=0.1), batch, tuple(f"{drawn} {row}" for row in range(8)))
        for drawn, samples in (("reference", 1200), ("one", 12), ("other", 12))
    )
    one, other, truth = (part.flatten(1) for part in (*halves, reference))
    true = ((one + other) / 2 - truth).norm(dim=1) / truth.norm(dim=1)
    ratio = relative_error(one, other) / true
    assert 0.8 < float(ratio.log().mean().exp()) < 1.25
    assert ratio.min() > 0.5 and ratio.max() < 2


@pytest.mark.parametrize(("kind", "tolerance"), [(SmoothGrad, 0.05), (SmoothGradSquared, 0.05), (VarGrad, 0.2)])
def test_images_are_asked_about_until_the_error_is_under_the_tolerance(
    kind: type[NoisyGradient], tolerance: float
) -> None:
    network, batch, most = bent(), images(2, count=4), 640
    engine = Engine(network, [kind(samples=most, tolerance=tolerance)], B)
    asked = engine.forward_passes
    found = engine.explain(batch, names(4))
    questions = engine.forward_passes - asked - 4
    assert questions % 16 == 0 and 64 < questions < 4 * most
    assert not found.map_flags.any()
    others = tuple(f"reference {row}" for row in range(4))
    reference = maps_of(network, kind(samples=1200), batch, others).flatten(1)
    true = (found.maps[:, 0, 0].flatten(1) - reference).norm(dim=1) / reference.norm(dim=1)
    assert true.max() < 1.5 * tolerance


@pytest.mark.parametrize("samples", [1, 16, 40])
def test_an_image_that_does_not_reach_the_tolerance_is_flagged(samples: int) -> None:
    engine = Engine(bent(), [SmoothGrad(samples=samples, tolerance=1e-6), SmoothGrad(samples=samples)], B)
    found = engine.explain(images(2), names(3))
    assert (found.map_flags[:, 0, 0] == MapFlag.INEXACT).all() and not found.map_flags[:, 0, 1].any()
    torch.testing.assert_close(found.maps[:, 0, 0], found.maps[:, 0, 1], rtol=0, atol=1e-12)


def test_a_blank_map_is_exact() -> None:
    network = bent()
    network.module[-1].weight.data.zero_()
    engine = Engine(network, [SmoothGrad(samples=64, tolerance=0.1)], B)
    found = engine.explain(images(2), names(3))
    assert (found.map_flags == MapFlag.BLANK).all() and engine.forward_passes <= 3 + 16 * 3 + 1


def test_the_kin_share_copies_as_long_as_they_ask_about_the_same_images() -> None:
    fields: dict[str, Any] = {"samples": 32, "tolerance": 1e-6}
    passes = []
    for kinds in ([SmoothGrad], KINDS):
        engine = Engine(bent(), [kind(**fields) for kind in kinds], B)
        before = engine.forward_passes
        engine.explain(images(2), names(3))
        passes.append(engine.forward_passes - before)
    assert passes[0] == passes[1]


@pytest.mark.parametrize("kind", KINDS)
def test_sums_are_as_precise_as_it_takes(kind: type[NoisyGradient]) -> None:
    """The gradients of the same copies, in single precision, give the moments in double precision by NumPy."""
    network, batch = bent(torch.float32), images(2).float()
    copies: list[Tensor] = []
    engine = Engine(network, [kind(samples=20, noise_level=1e-4)], B, batch_size=60)
    handle = network.module.register_forward_pre_hook(lambda _, seen: copies.append(seen[0].detach().clone()))
    found = engine.explain(batch, names(3)).maps[:, 0, 0].double()
    handle.remove()
    noisy = copies[-1].requires_grad_()
    (gradients,) = torch.autograd.grad(network.module(noisy)[:, 1].sum(), noisy)
    each = gradients.view(3, 20, *batch.shape[2:]).double().numpy()
    expected = {SmoothGrad: each.mean(1), SmoothGradSquared: (each**2).mean(1), VarGrad: each.var(1)}[kind]
    error = (found - torch.from_numpy(expected)).norm() / torch.from_numpy(expected).norm()
    assert error < (1e-4 if kind is VarGrad else 1e-6)
