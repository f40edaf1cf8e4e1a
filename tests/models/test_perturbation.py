"""Explainers that hide segments or features, against Captum, brute force, scikit-learn, or the formula by hand."""

from itertools import pairwise
from math import factorial
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from scipy.stats import binom
from sklearn.linear_model import Ridge
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.ablationcam import AblationCAM
from models.explainers.coalitions import all_coalitions, learn
from models.explainers.feature_ablation import FeatureAblation
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.kernel_shap import KernelSHAP
from models.explainers.lime import LIME
from models.explainers.shapley_sampling import ShapleySampling
from models.explainers.supervoxels import cut
from models.flags import MapFlag
from models.network import Network
from models.targets import Classes, Predicted
from tests.models.networks import SHAPES, difference, images, names, wrap

B = Classes(classes=("b",))
OVER_SEGMENTS = (FeatureAblation, KernelSHAP, LIME, ShapleySampling)


class Convolutional(nn.Module):
    """Features, and a head that is not linear in them."""

    def __init__(self, dims: int, channels: int = 1, last: nn.Module | None = None) -> None:
        super().__init__()
        conv = nn.Conv2d if dims == 2 else nn.Conv3d
        self.features = conv(channels, 6, 4, stride=4)
        places = int(np.prod([size // 8 for size in SHAPES[dims]]))
        self.head = nn.Sequential(
            nn.LeakyReLU(0.1, inplace=True),
            conv(6, 4, 2, stride=2),
            nn.Tanh(),
            nn.Flatten(),
            nn.Linear(4 * places, 4),
            last or nn.Identity(),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.features(x))


def small(dims: int, channels: int = 1, last: nn.Module | None = None) -> Network:
    torch.manual_seed(0)
    return wrap(Convolutional(dims, channels, last), dims, channels)


def explain(network: Network, explainer: Any, batch: Tensor, **options: Any) -> Tensor:
    """Maps ``(image, *space)`` for class b."""
    return Engine(network, [explainer], B, **options).explain(batch, names(batch)).maps[:, 0, 0]


def hidden_behind(baseline: float, batch: Tensor, shown: Tensor, labels: Tensor) -> Tensor:
    """One image ``(1, channel, *space)`` by coalitions ``(question, segment)``, one question after another."""
    return torch.cat([batch.where(row[labels][None, None], baseline) for row in shown])


def coalitions(network: Network, explainer: Any, batch: Tensor) -> Tensor:
    """The ``(question, segment)`` that one image was asked by, in order, after the plain question."""
    given: list[Tensor] = []
    engine = Engine(network, [explainer], B)
    handle = network.module.register_forward_hook(lambda _, inputs, __: given.append(inputs[0].detach().clone()))
    engine.explain(batch, names(batch))
    handle.remove()
    pieces = cut(batch, explainer.segments, explainer.compactness)
    kept = (torch.cat(given)[1:] == batch)[:, 0]
    shown = torch.stack([kept[:, pieces.labels[0] == segment][:, 0] for segment in range(pieces.counts[0])], dim=1)
    assert torch.equal(torch.cat(given)[1:], hidden_behind(explainer.baseline, batch, shown, pieces.labels[0]))
    return shown


def shapley_values(network: Network, batch: Tensor, labels: Tensor, baseline: float) -> Tensor:
    """``(segment,)`` for one image, by all of its coalitions."""
    count = int(labels.max()) + 1
    subsets = [[bool(number >> bit & 1) for bit in range(count)] for number in range(2**count)]
    scores = network(hidden_behind(baseline, batch, torch.tensor(subsets), labels))[:, 1]
    values = torch.zeros(count, dtype=torch.float64)
    for number, subset in enumerate(subsets):
        size = sum(subset)
        for segment in range(count):
            if not subset[segment]:
                weight = factorial(size) * factorial(count - size - 1) / factorial(count)
                values[segment] += weight * (scores[number | 1 << segment] - scores[number])
    return values


def total_by_segment(maps: Tensor, labels: Tensor) -> Tensor:
    """The sum over segments of each segment's value; the map must be constant over each."""
    total = maps.new_zeros(())
    for segment in range(int(labels.max()) + 1):
        values = maps[labels == segment]
        assert values.eq(values[0]).all()
        total += values[0]
    return total


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1), (3, 3)])
def test_supervoxels_cover_each_image_with_contiguous_labels(dims: int, channels: int) -> None:
    batch = images(dims, channels)
    pieces = cut(batch, 50, 0.2)
    assert pieces.labels.shape == (5, *SHAPES[dims])
    for labels, count in zip(pieces.labels, pieces.counts, strict=True):
        assert labels.unique().tolist() == list(range(count))
    assert max(pieces.counts) > 1
    assert torch.equal(pieces.labels, cut(batch, 50, 0.2).labels)
    assert torch.equal(pieces.labels[[3]], cut(batch[[3]], 50, 0.2).labels)
    assert torch.equal(pieces.labels, cut(8 * batch, 50, 0.2).labels)


@pytest.mark.parametrize("dims", [2, 3])
def test_supervoxels_follow_edges(dims: int) -> None:
    ball = torch.zeros(1, 1, *SHAPES[dims])
    centred = torch.meshgrid(*[torch.arange(size) - size / 2 for size in SHAPES[dims]], indexing="ij")
    ball[0, 0] = (sum(axis**2 for axis in centred) < 13**2).float()
    pieces = cut(ball, 30, 0.3)
    pure = [ball[0, 0][pieces.labels[0] == segment].unique().numel() == 1 for segment in range(pieces.counts[0])]
    assert all(pure)
    grid = cut(ball, 30, 1000.0)
    assert not all(ball[0, 0][grid.labels[0] == part].unique().numel() == 1 for part in range(grid.counts[0]))


@pytest.mark.parametrize(("dims", "channels"), [(2, 1), (2, 3), (3, 1)])
def test_feature_ablation_equals_captums(dims: int, channels: int) -> None:
    network, batch = small(dims, channels), images(dims, channels, count=3)
    explainer = FeatureAblation(segments=20, compactness=0.2, baseline=0.25)
    ours = explain(network, explainer, batch, batch_size=7)
    pieces = cut(batch, 20, 0.2)
    assert len(set(pieces.counts)) > 1 or channels == 3
    for row, labels in enumerate(pieces.labels):
        theirs = attr.FeatureAblation(network.module).attribute(
            batch[[row]], 0.25, target=1, feature_mask=labels[None, None]
        )
        assert difference(ours[row], theirs[0, 0]) < 1e-6  # Captum adds up in single precision


@pytest.mark.parametrize(("dims", "segments"), [(2, 50), (3, 8)])
def test_kernel_shap_of_all_coalitions_is_the_shapley_value(dims: int, segments: int) -> None:
    network, batch = small(dims), images(dims, count=3)
    explainer = KernelSHAP(segments=segments, compactness=0.1, baseline=0.25, samples=600)
    ours = explain(network, explainer, batch)
    pieces = cut(batch, segments, 0.1)
    assert len(set(pieces.counts)) == 3
    for row, labels in enumerate(pieces.labels):
        exact = shapley_values(network, batch[[row]], labels, 0.25)
        assert difference(ours[row], exact[labels]) < 1e-9


def test_kernel_shap_asks_every_coalition_once_where_there_are_few() -> None:
    network, batch = small(2), images(2, count=1)
    shown = coalitions(network, KernelSHAP(segments=6, samples=62, baseline=0.25), batch)
    assert len(shown) == 64 - 1
    assert len(shown.unique(dim=0)) == 64 - 1
    assert not shown.all(1).any()
    assert len(coalitions(network, KernelSHAP(segments=6, samples=60, baseline=0.25), batch)) == 60 + 1


def test_kernel_shap_asks_distinct_pairs_of_coalitions_that_count_by_the_shapley_kernel() -> None:
    network, batch = small(2), images(2, count=1)
    explainer = KernelSHAP(segments=12, compactness=1.0, samples=400, baseline=0.25)
    constant, shown = coalitions(network, explainer, batch).split([1, 400])
    count = shown.shape[1]
    assert not constant.any()
    assert 2**count - 2 > 400
    assert torch.equal(shown[::2], ~shown[1::2])
    assert len(shown.unique(dim=0)) == 400
    again, weights = explainer._coalitions(count, names(batch)[0])
    assert torch.equal(again, shown)
    sizes = torch.arange(1, count)
    odds = 1 / (sizes * (count - sizes))
    found = torch.zeros(count - 1, dtype=torch.float64).index_add_(0, shown.sum(1) - 1, weights)
    assert ((found / found.sum() - odds / odds.sum()) * 400).abs().max() < 2  # a pair more or less
    assert (shown.sum(1) == 1).sum() == count


@pytest.mark.parametrize(("count", "samples"), [(2, 2), (3, 2), (4, 12), (9, 500), (40, 10), (60, 2000)])
def test_kernel_shap_asks_what_there_is_and_no_more_than_it_may(count: int, samples: int) -> None:
    shown, weights = KernelSHAP(samples=samples)._coalitions(count, "name")
    assert len(shown) == len(weights) == min(samples, 2**count - 2)
    assert len(shown.unique(dim=0)) > 0.99 * len(shown)
    assert weights.min() > 0 and shown.any(1).all() and not shown.all(1).any()


def test_kernel_shap_is_exact_on_interactions_of_two_from_few_samples() -> None:
    class Quadratic(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.Linear(int(np.prod(SHAPES[2])), 4)
            self.second = nn.Linear(int(np.prod(SHAPES[2])), 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.first(x.flatten(1)) * self.second(x.flatten(1))

    torch.manual_seed(0)
    network, batch = wrap(Quadratic()), images(2, count=2)
    pieces = cut(batch, 12, 1.0)
    exact = torch.stack(
        [shapley_values(network, batch[[row]], labels, 0.25)[labels] for row, labels in enumerate(pieces.labels)]
    )
    assert 2 ** min(pieces.counts) - 2 > 200
    few, none = (
        explain(network, KernelSHAP(segments=12, compactness=1.0, baseline=0.25, samples=samples), batch)
        for samples in (200, 4)
    )
    assert difference(few, exact) < 1e-9
    assert difference(none, exact) > 0.01


def test_kernel_shap_by_samples_comes_near_the_shapley_value() -> None:
    network, batch = small(2), images(2, count=2)
    explainer = KernelSHAP(segments=12, compactness=1.0, samples=1500)
    pieces = cut(batch, 12, 1.0)
    ours = explain(network, explainer, batch)
    for row, labels in enumerate(pieces.labels):
        assert 2 ** pieces.counts[row] - 2 > 1500
        error = difference(ours[row], shapley_values(network, batch[[row]], labels, 0.0)[labels])
        assert 1e-9 < error < 0.005


def test_what_is_learnt_of_coalitions_is_summed_over_all_of_them() -> None:
    shown = torch.rand(9, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    learnt = learn(shown, torch.randn(2, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2)))
    every = all_coalitions(7)
    differ = (every[:, None] != shown).sum(-1)
    scores = learnt.weights @ torch.exp(-differ / 3.5).T.double()
    by_size = np.random.default_rng(3).random(8)
    weighted = scores * torch.as_tensor(by_size)[every.sum(1)] / 2**7
    mean, of_player = learnt.moments(by_size)
    assert difference(mean, weighted.sum(1)) < 1e-6
    assert difference(of_player, weighted @ every.double()) < 1e-6
    gains = [[_shapley_value(row, player, 7) for player in range(7)] for row in scores]
    assert difference(learnt.shapley(), torch.tensor(gains, dtype=torch.float64)) < 1e-6


def _shapley_value(scores: Tensor, player: int, count: int) -> float:
    """Compute a Shapley value of the scores of all coalitions, in the order of their binary numbers."""
    total = 0.0
    for number in range(2**count):
        if not number >> player & 1:
            size = number.bit_count()
            weight = factorial(size) * factorial(count - size - 1) / factorial(count)
            total += weight * float(scores[number | 1 << player] - scores[number])
    return total


def test_what_is_learnt_without_a_coalition_tells_by_how_much_it_is_missed() -> None:
    shown = torch.rand(9, 7, generator=torch.Generator().manual_seed(1)) < 0.5
    scores = torch.randn(1, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    others = torch.arange(9) != 4
    partial = learn(shown[others], scores[:, others])
    said = partial.weights[0] @ torch.exp(-(shown[4] != shown[others]).sum(-1) / 3.5).double()
    assert torch.isclose(learn(shown, scores).left_out[0, 4], scores[0, 4] - said, rtol=1e-5)


def test_shapley_sampling_equals_captums_with_the_same_permutations() -> None:
    network, batch = small(2), images(2, count=1)
    explainer = ShapleySampling(segments=20, permutations=4, baseline=0.25)
    constant, shown = coalitions(network, explainer, batch).split([1, 4 * 19])
    assert not constant.any()
    labels = cut(batch, 20, 0.3).labels
    orders = []
    for path in shown.view(4, -1, shown.shape[1]):
        full = torch.cat([constant, path, ~constant])
        steps = [torch.nonzero(later & ~earlier).flatten() for earlier, later in pairwise(full)]
        assert all(len(step) == 1 for step in steps)
        orders.append(torch.cat(steps).tolist())
    assert len({tuple(order) for order in orders}) == 4
    oracle = attr.ShapleyValueSampling(network.module)
    oracle.permutation_generator = lambda count, samples: orders
    theirs = oracle.attribute(batch, 0.25, target=1, feature_mask=labels[None], n_samples=4)
    assert difference(explain(network, explainer, batch), theirs[:, 0]) < 1e-6


def test_shapley_sampling_comes_near_the_shapley_value_with_many_permutations() -> None:
    network, batch = small(2), images(2, count=2)
    errors = []
    for permutations in (2, 300):
        ours = explain(network, ShapleySampling(segments=6, permutations=permutations), batch)
        exact = [
            shapley_values(network, batch[[row]], labels, 0.0)[labels]
            for row, labels in enumerate(cut(batch, 6, 0.3).labels)
        ]
        errors.append(difference(ours, torch.stack(exact)))
    assert errors[1] < 0.004 < errors[0]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("kind", [KernelSHAP, ShapleySampling])
def test_shapley_values_are_complete_however_few_samples(kind: Any, dims: int) -> None:
    network, batch = small(dims), images(dims, count=3)
    few = {"samples": 10} if kind is KernelSHAP else {"permutations": 2}
    explainer = kind(segments=30, compactness=0.2, baseline=0.25, **few)
    maps = explain(network, explainer, batch)
    pieces = cut(batch, 30, 0.2)
    gap = (network(batch) - network(torch.full_like(batch, 0.25)))[:, 1]
    for row, labels in enumerate(pieces.labels):
        assert torch.isclose(total_by_segment(maps[row], labels), gap[row], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("dims", [2, 3])
def test_on_a_linear_network_every_one_is_the_sum_over_the_segment(dims: int) -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Flatten(), nn.Linear(int(np.prod(SHAPES[dims])), 4))
    network, batch = wrap(module, dims), images(dims, count=3)
    credit = module[1].weight[1].view(SHAPES[dims]) * (batch[:, 0] - 0.25)
    pieces = cut(batch, 10, 0.1)
    tiles = cut(batch, 10, 1e6)
    assert len(set(pieces.counts)) > 1 or dims == 2
    for compactness, segments in ((0.1, pieces), (1e6, tiles)):
        common = {"segments": 10, "compactness": compactness, "baseline": 0.25}
        explainers = (
            FeatureAblation(**common),
            KernelSHAP(**common, samples=100),
            LIME(**common, samples=100, alpha=1e-15),
            ShapleySampling(**common, permutations=2),
        )
        for explainer in explainers:
            maps = explain(network, explainer, batch)
            for row, labels in enumerate(segments.labels):
                sums = torch.zeros(segments.counts[row], dtype=torch.float64)
                sums.index_add_(0, labels.flatten(), credit[row].flatten())
                assert difference(maps[row], sums[labels]) < 1e-6, explainer.name


def ridge_of_all(network: Network, batch: Tensor, labels: Tensor, explainer: LIME) -> Tensor:
    """The coefficients of all choices of the segments of one image, by scikit-learn."""
    shown = all_coalitions(int(labels.max()) + 1)
    norm = np.sqrt(shown.sum(1).numpy() * shown.shape[1])
    cosine = np.divide(shown.sum(1).numpy(), norm, out=np.zeros(len(norm)), where=norm > 0)
    scores = network(hidden_behind(explainer.baseline, batch, shown, labels))[:, 1]
    weights = np.exp(-((1 - cosine) ** 2) / explainer.width**2)
    ridge = Ridge(alpha=explainer.alpha * len(shown)).fit(shown.numpy(), scores.numpy(), weights)
    return torch.as_tensor(ridge.coef_)[labels]


@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_lime_of_all_choices_equals_ridge_regression_of_scikit_learn(alpha: float) -> None:
    network, batch = small(2), images(2, count=1)
    labels = cut(batch, 6, 0.3).labels[0]
    explainer = LIME(segments=6, samples=64, alpha=alpha, width=0.4, baseline=0.25)
    assert len(coalitions(network, explainer, batch)) == 64
    assert difference(explain(network, explainer, batch)[0], ridge_of_all(network, batch, labels, explainer)) < 1e-9


@pytest.mark.parametrize("alpha", [0.001, 0.1])
def test_lime_by_samples_comes_near_the_ridge_regression_of_all_choices(alpha: float) -> None:
    network, batch = small(2), images(2, count=1)
    labels = cut(batch, 12, 1.0).labels[0]
    explainer = LIME(segments=12, compactness=1.0, samples=1000, alpha=alpha)
    exact = ridge_of_all(network, batch, labels, explainer)
    assert 1e-9 < difference(explain(network, explainer, batch)[0], exact) < 0.005


def test_lime_draws_pairs_in_proportion_to_their_weight() -> None:
    explainer = LIME(samples=2000)
    shown, weights = explainer._coalitions(20, "name")
    assert torch.equal(shown[::2], ~shown[1::2])
    sizes = np.arange(21)
    wanted = np.exp(-(((1 - np.sqrt(sizes / 20)) / 0.25) ** 2)) * binom.pmf(sizes, 20, 0.5)
    found = torch.zeros(21, dtype=torch.float64).index_add_(0, shown.sum(1), weights / 2000)
    assert np.abs(found.numpy() - wanted).max() < 0.01 * wanted.sum()
    assert (shown.double().mean(0) - 0.5).abs().max() < 1e-9


@pytest.mark.parametrize("kind", [KernelSHAP, LIME, ShapleySampling])
def test_no_more_is_asked_once_the_error_is_within_the_tolerance(kind: Any) -> None:
    network, batch = small(2), images(2, count=3)
    most = {"permutations": 32} if kind is ShapleySampling else {"samples": 800}
    shape = {"segments": 12, "compactness": 1.0, **most}

    def run(tolerance: float | None, rows: Any = slice(None)) -> tuple[Tensor, list[int], int]:
        engine = Engine(network, [kind(**shape, tolerance=tolerance)], B)
        found = engine.explain(batch[rows], names(batch)[rows])
        return found.maps[:, 0, 0], found.map_flags[:, 0, 0].tolist(), engine.forward_passes

    whole, flags, most_passes = run(None)
    assert flags == [0, 0, 0]
    exact = torch.stack(
        [ridge_of_all(network, batch[[row]], labels, kind()) if kind is LIME
         else shapley_values(network, batch[[row]], labels, 0.0)[labels]
         for row, labels in enumerate(cut(batch, 12, 1.0).labels)]
    )  # fmt: skip
    maps, flags, passes = run(0.05)
    assert flags == [0, 0, 0] and passes < 0.8 * most_passes
    assert all(difference(ours, true) < 0.05 for ours, true in zip(maps, exact, strict=True))
    assert all(difference(run(0.05, slice(row, row + 1))[0], maps[[row]]) < 1e-9 for row in range(3))
    maps, flags, passes = run(1e-6)
    assert flags == [MapFlag.INEXACT] * 3 and passes == most_passes
    assert difference(maps, whole) < 1e-9


def test_what_is_exact_meets_any_tolerance() -> None:
    network, batch = small(2), images(2, count=2)
    for explainer in (KernelSHAP(segments=6, tolerance=1e-9), LIME(segments=6, tolerance=1e-9)):
        found = Engine(network, [explainer], B).explain(batch, names(batch))
        assert found.map_flags.tolist() == [[[0]], [[0]]]
        plain = explain(network, explainer.model_copy(update={"tolerance": None}), batch)
        assert torch.equal(found.maps[:, 0, 0], plain)


@pytest.mark.parametrize("kind", [KernelSHAP, LIME, ShapleySampling])
def test_the_value_of_a_single_segment_meets_any_tolerance(kind: Any) -> None:
    network, batch = small(2), images(2, count=2)
    explainer = kind(segments=1, tolerance=1e-9)
    found = Engine(network, [explainer], B).explain(batch, names(batch))
    assert not found.map_flags.any()
    plain = explain(network, explainer.model_copy(update={"tolerance": None}), batch)
    assert torch.equal(found.maps[:, 0, 0], plain)


class _Nowhere(nn.Module):
    """Scores that are not numbers where half of an image is hidden."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = (x == 0).double().flatten(1).mean(1, keepdim=True)
        return torch.where((hidden > 0.3) & (hidden < 0.7), torch.nan, hidden.expand(-1, 4))


@pytest.mark.parametrize("kind", [KernelSHAP, LIME, ShapleySampling])
def test_values_that_are_no_numbers_meet_no_tolerance(kind: Any) -> None:
    batch = images(2, count=2)
    found = Engine(wrap(_Nowhere()), [kind(segments=12, tolerance=1e9)], B).explain(batch, names(batch))
    assert (found.map_flags == MapFlag.NOT_FINITE | MapFlag.INEXACT).all()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("last", [None, nn.ReLU()])
def test_ablationcam_weighs_features_by_the_drop_without_them(dims: int, last: nn.Module | None) -> None:
    network = small(dims, last=last)
    batch = images(dims)
    features = network.module.features(batch)
    expected, scores = [], []
    for row in features:
        score = network.module.head(row[None].clone())[0, 1]
        cam = torch.zeros_like(row[0])
        for k in range(len(row)):
            ablated = row[None].clone()
            ablated[0, k] = 0
            drop = score - network.module.head(ablated)[0, 1]
            cam += (drop / score if score != 0 else drop) * row[k]
        scores.append(float(score))
        mode = "bilinear" if dims == 2 else "trilinear"
        expected.append(nn.functional.interpolate(cam.relu()[None, None], SHAPES[dims], mode=mode)[0, 0])
    assert min(scores) < 0 < max(scores) if last is None else 0 in scores
    maps = explain(network, AblationCAM(layer="features"), batch, batch_size=4)
    assert difference(maps, torch.stack(expected)) < 1e-9


def test_ablationcam_leaves_no_hook_behind_when_the_network_fails() -> None:
    network = small(2)
    engine = Engine(network, [AblationCAM(layer="features")], B, batch_size=5)
    calls: list[int] = []

    def fail(*_: Any) -> None:
        calls.append(1)
        if len(calls) == 3:
            raise RuntimeError("broken")

    handle = network.module.head.register_forward_hook(fail)
    with pytest.raises(RuntimeError, match="broken"):
        engine.explain(images(2), names(images(2)))
    handle.remove()
    assert not any(part._forward_hooks for part in network.module.modules())


ALL: tuple[Any, ...] = (
    FeatureAblation(compactness=0.1),
    KernelSHAP(compactness=0.1, samples=100),
    LIME(compactness=0.1, samples=20),
    ShapleySampling(compactness=0.1, permutations=4),
    AblationCAM(layer="features"),
)


@pytest.mark.parametrize("explainer", ALL, ids=lambda explainer: explainer.name)
def test_a_map_depends_on_the_image_alone(explainer: Any) -> None:
    network, batch = small(2), images(2)
    counts = cut(batch, 50, 0.1).counts
    assert 2 ** min(counts) - 2 < 100 < 2 ** max(counts) - 2  # Kernel SHAP by all coalitions, and by samples
    engine = Engine(network, [explainer], Predicted(k=2), batch_size=32)
    maps = engine.explain(batch, names(batch)).maps
    assert torch.isfinite(maps).all()
    assert (maps.flatten(3).abs().amax(-1) > 0).all()
    small_batches = Engine(network, [explainer], Predicted(k=2), batch_size=1)
    reverse = [4, 3, 2, 1, 0]
    others = {
        "again": engine.explain(batch, names(batch)).maps,
        "one by one": torch.cat([engine.explain(batch[[i]], (names(batch)[i],)).maps for i in range(5)]),
        "in batches of one": small_batches.explain(batch, names(batch)).maps,
        "in another order": engine.explain(batch[reverse], names(batch)[::-1]).maps[reverse],
        "among all": Engine(network, ALL, Predicted(k=2), batch_size=7)
        .explain(batch, names(batch))
        .maps[:, :, [ALL.index(explainer)]],
    }
    for how, other in others.items():
        assert difference(other, maps) < 1e-6, how


@pytest.mark.parametrize("kind", [KernelSHAP, LIME, ShapleySampling])
def test_what_is_drawn_depends_on_the_name_of_the_image(kind: Any) -> None:
    network, batch = small(2), images(2, count=1)
    few = {"permutations": 2} if kind is ShapleySampling else {"samples": 40}
    engine = Engine(network, [kind(**few)], B)
    one, other = (engine.explain(batch, (name,)).maps for name in ("one", "other"))
    assert difference(one, other) > 1e-3


@pytest.mark.parametrize("dims", [2, 3])
def test_a_constant_image_and_one_of_a_single_segment_go_through(dims: int) -> None:
    network, batch = small(dims), images(dims, count=3)
    batch[0] = 0.5
    whole = (network(batch) - network(torch.zeros_like(batch)))[:, 1]
    counts = cut(batch, 30, 0.02).counts
    assert counts[0] > 20 and counts[1:] == (1, 1)
    for kind in OVER_SEGMENTS:
        few = {KernelSHAP: {"samples": 40}, LIME: {"samples": 40, "alpha": 1e-15}, ShapleySampling: {"permutations": 2}}
        maps = explain(network, kind(segments=30, compactness=0.02, **few.get(kind, {})), batch)
        assert torch.isfinite(maps).all(), kind
        assert maps[0].abs().max() > 0, kind
        assert difference(maps[1:].flatten(1), whole[1:, None].expand(-1, maps[0].numel())) < 1e-6, kind


def test_the_baseline_is_asked_once_for_all() -> None:
    network, batch = small(2), images(2, count=1)
    explainers = [KernelSHAP(samples=40), ShapleySampling(permutations=2), IntegratedGradients(tolerance=1e9)]
    engine = Engine(network, explainers, B)
    engine.explain(batch, names(batch))
    count = cut(batch, 50, 0.3).counts[0]
    assert engine.forward_passes == 1 + 1 + 40 + 2 * (count - 1) + 3
