"""Integrals over paths: the tolerance is reached or the map is flagged, and no question is asked twice."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.bisection import Bisection, Points
from models.explainers.expected_gradients import ExpectedGradients
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.saliency import Saliency
from models.flags import MapFlag
from models.network import Network
from models.network_config import NetworkConfig
from models.records import RecordField
from models.targets import Classes, OverThreshold, Predicted
from models.windows import Windows
from tests.models.networks import difference, names, wrap

B = Classes(classes=("b",))
SHAPE = (12, 14)


class Jumping:
    """Vectors along [0, 1] that jump at random places; their sum is the derivative of a score."""

    def __init__(self, jumps: int, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.places = torch.rand(jumps, generator=generator, dtype=torch.float64)
        self.by = torch.randn(jumps, 60, generator=generator, dtype=torch.float64)
        self.start = 2 + torch.randn(60, generator=generator, dtype=torch.float64)

    def at(self, places: Tensor) -> Points:
        over = places[0][:, None] - self.places
        values = self.start + (over > 0).double() @ self.by
        scores = places[0] * self.start.sum() + over.clamp_min(0) @ self.by.sum(1)
        return Points(places, scores[None, None], (values[None, None],))

    @property
    def integral(self) -> Tensor:
        return self.start + (1 - self.places) @ self.by

    def bisected(self, nodes: int) -> tuple[float, float]:
        """The estimated and the true relative error with so many nodes."""
        path = Bisection.between(self.at(torch.zeros(1, 1).double()), self.at(torch.ones(1, 1).double()))
        while path.count < nodes:
            left, right, places = path.worst(min(2, nodes - path.count))
            path = path.bisected(left, right, self.at(places))
        found = path.integrals[0][0, 0]
        return float(path.error), float((found - self.integral).norm() / found.norm())


@pytest.mark.parametrize(("jumps", "nodes"), [(1, 2), (1, 6), (8, 5), (8, 17), (200, 9), (200, 33)])
def test_the_estimate_is_the_error_of_values_that_jump(jumps: int, nodes: int) -> None:
    estimated, true = torch.tensor([Jumping(jumps, seed).bisected(nodes) for seed in range(60)]).T
    assert 0.7 < true.square().mean().sqrt() / estimated.square().mean().sqrt() < 1.4
    assert (true < 4 * estimated).all()


def test_more_nodes_go_where_values_jump() -> None:
    for seed in range(5):
        jumping = Jumping(30, seed)
        jumping.places = 0.8 + 0.05 * jumping.places
        even = jumping.at(torch.linspace(0, 1, 17)[None].double()).parts[0][0, 0]
        even = (even[1:] + even[:-1]).mean(0) / 2
        assert jumping.bisected(17)[1] < 0.5 * float((even - jumping.integral).norm() / jumping.integral.norm())


def test_where_values_go_straight_the_estimate_is_nothing() -> None:
    def at(places: Tensor) -> Points:
        values = torch.stack([1 + places, 3 - places, 5 * places], -1)
        return Points(places, (4 * places + 2.5 * places**2)[None], (values[None],))

    path = Bisection.between(at(torch.zeros(2, 1)), at(torch.ones(2, 1)))
    assert path.error.min() > 0.1
    left, right, places = path.worst(2)
    path = path.bisected(left, right, at(places))
    assert path.error.max() < 1e-6
    assert torch.allclose(path.integrals[0], torch.tensor([1.5, 2.5, 2.5]).expand(1, 2, 3))


def corners(kind: type[nn.Module] = nn.ReLU) -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 6, 3), kind(), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3), kind(), nn.Flatten(), nn.LazyLinear(4)
    )


def small(kind: type[nn.Module] = nn.ReLU) -> tuple[Network, Tensor]:
    module = corners(kind)
    batch = 3 * torch.randn(6, 1, *SHAPE, generator=torch.Generator().manual_seed(1)).double()
    module(batch.float())
    return wrap(module, shape=SHAPE), batch


def limit(network: Network, batch: Tensor, classes: Tensor, steps: int = 2000) -> Tensor:
    """Integrated gradients by the midpoint rule and autograd."""
    maps = []
    for image, chosen in zip(batch, classes.tolist(), strict=True):
        places = ((torch.arange(steps) + 0.5) / steps).double()
        points = (places[:, None, None, None] * image).requires_grad_()
        (gradient,) = torch.autograd.grad(network.module(points)[:, chosen].sum(), points)
        maps.append((image * gradient.mean(0)).sum(0))
    return torch.stack(maps)


@pytest.mark.parametrize("kind", [nn.ReLU, nn.GELU])
@pytest.mark.parametrize(("steps", "tolerance"), [(100, 0.03), (300, 0.01), (9, 0.01), (2, 1e-9)])
def test_the_tolerance_is_reached_or_the_map_is_flagged(kind: Any, steps: int, tolerance: float) -> None:
    network, batch = small(kind)
    engine = Engine(network, [IntegratedGradients(steps=steps, tolerance=tolerance)], Predicted(), batch_size=7)
    found = engine.explain(batch, names(batch))
    expected = limit(network, batch, found.target_class[:, 0])
    inexact = found.map_flags[:, 0, 0] == MapFlag.INEXACT.value
    errors = (found.maps[:, 0, 0] - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1)
    assert (errors[~inexact] < 2 * tolerance).all()
    assert inexact.all() if steps < 10 and kind is nn.ReLU else steps < 10 or not inexact.any()
    assert engine.forward_passes == engine.backward_passes <= steps * len(batch)


def test_no_question_is_asked_twice_and_equal_ones_of_several_explainers_once() -> None:
    network, batch = small()
    explainer = IntegratedGradients(steps=60, tolerance=0.02)
    again = explainer.model_copy(update={"label": "again"})
    asked: list[Tensor] = []
    engine = Engine(network, [explainer], Predicted())
    handle = network.module.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].detach()))
    engine.explain(batch, names(batch))
    handle.remove()
    points = torch.cat(asked).flatten(1)
    assert len(points) == engine.forward_passes == engine.backward_passes > 5 * len(batch)
    assert len(points.unique(dim=0)) == len(points) - len(batch) + 1  # the baseline is the same for all images
    shared = Engine(network, [explainer, again, Saliency()], Predicted())
    maps = shared.explain(batch, names(batch)).maps
    assert torch.equal(maps[:, :, 0], maps[:, :, 1])
    assert shared.forward_passes == shared.backward_passes == len(points)


@pytest.mark.parametrize(("steps", "flagged"), [(60, False), (12, True)])
def test_a_jump_there_and_back_is_found_by_the_score_or_flagged(steps: int, flagged: bool) -> None:
    class Step(nn.Module):
        """A score that is linear but for a steep step, which no node of an even grid of 16 meets."""

        def forward(self, inputs: Tensor) -> Tensor:
            mean = inputs.mean((1, 2, 3))
            weighted = (inputs * torch.linspace(0, 1, inputs.shape[-1], dtype=inputs.dtype)).mean((1, 2, 3))
            score = weighted + 1000 * ((mean - 0.4).relu() - (mean - 0.401).relu())
            return torch.stack([score] * 4, 1)

    network, batch = wrap(Step(), shape=SHAPE), torch.ones(1, 1, *SHAPE).double()
    found = Engine(network, [IntegratedGradients(steps=steps, tolerance=0.02)], B).explain(batch, names(batch))
    expected = torch.linspace(0, 1, SHAPE[1]).double().expand(1, *SHAPE) + 1
    assert bool(found.map_flags.any()) is flagged
    assert (difference(found.maps[:, 0, 0], expected / (SHAPE[0] * SHAPE[1])) < 0.04) is not flagged


class _Beside(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.AdaptiveMaxPool2d(2), nn.Flatten())
        self.head = nn.Sequential(nn.Linear(18, 12), nn.ReLU(), nn.Linear(12, 2))

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        return self.head(torch.cat([self.body(images), record], 1))


def test_map_channels_and_record_are_complete_together_with_windows_and_several_targets() -> None:
    module = _Beside().double().eval()
    windows = Windows(image_shape=SHAPE)
    config = NetworkConfig(classes=("a", "b"), channels=2, input_shape=(8, 8), windows=windows)
    network = Network(module, config, fields=[RecordField(name="age"), RecordField(name="weight")])
    generator = torch.Generator().manual_seed(2)
    batch = 2 * torch.randn(3, 2, *SHAPE, generator=generator).double()
    record = 2 * torch.randn(3, 2, generator=generator).double()

    def engine(explainer: IntegratedGradients) -> Engine:
        return Engine(network, [explainer], Predicted(k=2), 4, keeps_channels=True)

    close = engine(IntegratedGradients(steps=300, tolerance=0.01))
    found = close.explain(batch, names(batch), record=record).outputs
    expected = engine(IntegratedGradients(steps=600)).explain(batch, names(batch), record=record).outputs
    assert not found["map_flags"].any()
    for name in ("attribution", "attribution_channel", "attribution_record"):
        assert difference(found[name], expected[name]) < 0.02, name
    assert torch.allclose(found["attribution_channel"].sum(3), found["attribution"])


def test_every_image_has_nodes_of_its_own_whatever_is_beside_it() -> None:
    network, batch = small()
    explainer = IntegratedGradients(steps=60, tolerance=0.02)
    engine = Engine(network, [explainer], Predicted(k=2), batch_size=5)
    together = engine.explain(batch, names(batch)).maps
    alone = [Engine(network, [explainer], Predicted(k=2)) for _ in batch]
    maps = [one.explain(batch[[row]], names(batch)[row : row + 1]).maps for row, one in enumerate(alone)]
    assert difference(torch.cat(maps), together) < 1e-9
    assert len({one.backward_passes for one in alone}) > 1
    assert sum(one.backward_passes for one in alone) == engine.backward_passes


def test_an_image_without_a_target_asks_no_more_than_it_has_to() -> None:
    network, batch = small()
    engine = Engine(network, [IntegratedGradients(steps=60, tolerance=1e-9)], OverThreshold(threshold=1.0))
    found = engine.explain(batch, names(batch))
    assert engine.forward_passes <= 5 * len(batch)
    assert not found.map_flags.any()


@pytest.mark.parametrize("samples", [3, 4, 10, 16])
def test_expected_gradients_take_the_background_in_turn_and_all_of_the_path(samples: int) -> None:
    explainer = ExpectedGradients(samples=samples)
    others, places = explainer.draw([str(name) for name in range(200)], 4, torch.device("cpu"))
    for row in range(200):
        counts = others[row].bincount(minlength=4)
        assert counts.amax() - counts.amin() <= 1
        assert (places[row] * samples).floor().tolist() == list(range(samples))
    assert len({tuple(order) for order in others[:, :3].tolist()}) == 24  # every order of the background
    alone = explainer.draw(["7"], 4, torch.device("cpu"))
    assert torch.equal(alone[0][0], others[7]) and torch.equal(alone[1][0], places[7])


def test_expected_gradients_are_closer_to_the_limit_than_independent_draws() -> None:
    network, batch = small()
    batch, background = batch[:1], batch[1:5]
    places = ((torch.arange(500) + 0.5) / 500).double()[:, None, None, None]
    of_each = []
    for start in background:
        points = (start + places * (batch[0] - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(network.module(points)[:, 1].sum(), points)
        of_each.append((batch[0] - start) * gradient)
    expected = torch.stack(of_each).mean((0, 1))[0]
    engine = Engine(network, [ExpectedGradients(samples=20)], B, 64, fitted={"background": background})
    draws = 40
    maps = engine.explain(batch.expand(draws, -1, -1, -1), [str(name) for name in range(draws)]).maps[:, 0, 0]
    error = (maps - expected).square().sum((1, 2)).mean().sqrt()
    spread = torch.cat(of_each)[:, 0].sub(expected).square().sum((1, 2)).mean().sqrt()
    assert error < 0.6 * spread / 20**0.5
    assert (maps.mean(0) - expected).norm() < 3 * error / draws**0.5  # in the mean over draws nothing is missed


def limit_of_expected(network: Network, image: Tensor, background: Tensor) -> Tensor:
    """Expected gradients of one image by 300 midpoints of each path."""
    places = ((torch.arange(300) + 0.5) / 300).to(image)[:, None, None, None]
    paths = []
    for start in background:
        points = (start + places * (image - start)).requires_grad_()
        (gradient,) = torch.autograd.grad(network.module(points)[:, 1].sum(), points)
        paths.append(((image - start) * gradient).sum(1).mean(0))
    return torch.stack(paths).mean(0)


def test_halves_are_spread_over_background_and_path_at_any_number_of_samples() -> None:
    ids = [str(name) for name in range(50)]
    others, places = ExpectedGradients(samples=64, tolerance=0.1).draw_halves(ids, 4, torch.device("cpu"))
    fewer = ExpectedGradients(samples=13, tolerance=0.1).draw_halves(ids, 4, torch.device("cpu"))
    assert torch.equal(fewer[0], others[:, :13]) and torch.equal(fewer[1], places[:, :13])
    for half in (0, 1):
        own, at = others[:, half::2].unflatten(1, (8, 4)), places[:, half::2].unflatten(1, (8, 4))
        assert (own.sort(2).values == torch.arange(4)).all()
        for cycles in (2, 4, 8):  # each path is cut into equal parts
            gaps = at[:, :cycles].sort(1).values.diff(dim=1)
            torch.testing.assert_close(gaps, torch.full_like(gaps, 1 / cycles))
    assert (places[:, 0] != places[:, 1]).all() and (others[:, 0] != others[:, 1]).any()
    assert abs(float(places[:, 0].mean()) - 0.5) < 0.15


@pytest.mark.parametrize("tolerance", [0.2, 0.1])
def test_expected_gradients_are_asked_for_until_the_error_is_under_the_tolerance(tolerance: float) -> None:
    network, batch = small()
    batch, background = batch[:2], batch[2:]
    explainer = ExpectedGradients(samples=4000, tolerance=tolerance)
    engine = Engine(network, [explainer], B, 64, fitted={"background": background})
    draws = 24
    found = engine.explain(batch.repeat(draws, 1, 1, 1), [str(name) for name in range(draws * len(batch))])
    assert engine.backward_passes % 8 == 0 and engine.backward_passes < draws * len(batch) * 4000 / 8
    assert not found.map_flags.any()
    limits = torch.stack([limit_of_expected(network, image, background) for image in batch]).repeat(draws, 1, 1)
    true = (found.maps[:, 0, 0] - limits).flatten(1).norm(dim=1) / limits.flatten(1).norm(dim=1)
    assert true.square().mean().sqrt() < 1.2 * tolerance and true.max() < 3 * tolerance
    alone = Engine(network, [explainer], B, fitted={"background": background}).explain(batch[1:2], ["1"])
    assert difference(alone.maps[0], found.maps[1]) < 1e-9


def test_expected_gradients_that_miss_the_tolerance_are_flagged() -> None:
    network, batch = small()
    fitted = {"background": batch[2:]}
    explainers = [ExpectedGradients(samples=samples, tolerance=1e-6) for samples in (1, 30)]
    for explainer in explainers:
        found = Engine(network, [explainer], B, fitted=fitted).explain(batch[:2], names(batch[:2]))
        assert (found.map_flags == MapFlag.INEXACT.value).all() and found.maps.isfinite().all()
