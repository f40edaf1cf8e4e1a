"""Faithfulness: linear networks whose answers are known, loops by hand, and Captum's infidelity."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.metrics import infidelity
from scipy.sparse import lil_matrix
from scipy.sparse.linalg import spsolve
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_random import ControlRandom
from models.explainers.fill import filled
from models.metrics import evaluate
from models.metrics.completeness import CompletenessGap
from models.metrics.deletion import Deletion
from models.metrics.effective_complexity import EffectiveComplexity
from models.metrics.features import Grid
from models.metrics.impact_score import ImpactScore
from models.metrics.imputation import impute
from models.metrics.infidelity import Infidelity
from models.metrics.insertion import Insertion
from models.metrics.road import ROADLeRF, ROADMoRF
from models.metrics.selectivity import Selectivity
from models.metrics.sensitivity_n import SensitivityN
from models.network import Network
from tests.models.metrics.cases import SHAPES, B, boxes, curved, images, linear, names, network_of, values_of


def asked(network: Network, metric: Any, batch: Tensor, maps: Tensor) -> tuple[Any, Tensor]:
    """The score, and the inputs that the network was given after the plain ones."""
    seen: list[Tensor] = []
    handle = network.module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].clone()))
    score = values_of(network, metric, batch, maps)
    handle.remove()
    return score, torch.cat(seen)[len(batch) :]


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("side", [1, 3, 9])
def test_curves_of_a_linear_network_are_sums_of_what_is_hidden(dims: int, side: int) -> None:
    network, weights = linear(dims)
    batch = images(dims)
    credit = weights * batch[:, 0]
    grid = Grid(SHAPES[dims], side)
    deletion = values_of(network, Deletion(patch=side, points=7), batch, credit)
    insertion = values_of(network, Insertion(patch=side, points=7, fill=0.0), batch, credit)
    selectivity = values_of(linear(dims, "softmax")[0], Selectivity(patch=side, points=7), batch, credit)
    for row, own in enumerate(credit):
        totals: dict[tuple[int, ...], float] = {}
        for place in np.ndindex(*SHAPES[dims]):
            square = tuple(index // side for index in place)
            totals[square] = totals.get(square, 0.0) + float(own[place])
        strongest = np.sort(list(totals.values()))[::-1]
        assert len(strongest) == grid.count
        steps = min(7, grid.count)
        counts = np.round(np.arange(steps + 1) * grid.count / steps).astype(int)
        kept = np.array([strongest[count:].sum() for count in counts]) + float(network.module[1].bias[1])
        shown = np.array([strongest[:count].sum() for count in counts]) + float(network.module[1].bias[1])
        np.testing.assert_allclose(deletion.curves["probability"][row, 0, 0], kept, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(insertion.curves["probability"][row, 0, 0], shown, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(selectivity.curves["score"][row, 0, 0], kept, rtol=1e-5, atol=1e-5)
        np.testing.assert_allclose(deletion.points, counts / grid.count)
        np.testing.assert_allclose(deletion.value[row, 0, 0], np.trapezoid(kept, counts / grid.count), rtol=1e-5)
        np.testing.assert_allclose(selectivity.value[row, 0, 0], np.trapezoid(kept, counts / grid.count), rtol=1e-5)
        np.testing.assert_allclose(insertion.value[row, 0, 0], np.trapezoid(shown, counts / grid.count), rtol=1e-5)


@pytest.mark.parametrize("fill", [0.5, "mean", "blur"])
def test_curves_end_at_the_probability_of_the_image_wholly_hidden(fill: Any) -> None:
    network, batch = curved(2), images(2)
    maps = torch.randn(3, *SHAPES[2], dtype=torch.float64)
    curve = values_of(network, Deletion(fill=fill, patch=4), batch, maps).curves["probability"][:, 0, 0]
    ends = [network(part).softmax(1)[:, 1] for part in (batch, filled(batch, fill))]
    torch.testing.assert_close(curve[:, [0, -1]].double(), torch.stack(ends, 1), rtol=1e-5, atol=1e-6)
    assert (ends[0] - ends[1]).abs().min() > 1e-4


def test_the_right_map_deletes_faster_and_inserts_faster_than_its_opposite() -> None:
    network, weights = linear(2, "softmax")
    batch = images(2)
    credit = (weights - network.module[1].weight[0].view(SHAPES[2])) * batch[:, 0]
    for metric, better in ((Deletion(patch=2), -1), (Insertion(patch=2), 1), (ROADMoRF(), -1), (ROADLeRF(), 1)):
        value = values_of(network, metric, batch, torch.stack([credit, -credit], 1)).value[:, 0]
        assert (better * (value[:, 0] - value[:, 1]) > 0.1).all(), metric.name


def test_equal_values_are_hidden_in_an_order_drawn_by_the_images_name() -> None:
    network = curved(2)
    batch = images(2, count=1).expand(2, -1, -1, -1)
    _, inputs = asked(network, Deletion(patch=4, points=4), batch, torch.ones(2, *SHAPES[2]))
    wholly, one, two = (inputs == 0).flatten(1).split([2, 3, 3])
    assert wholly.all()
    assert one.sum(1).tolist() == [80, 160, 240]
    assert not one[0, :80].all()
    assert not torch.equal(one, two)


def test_equal_maps_and_equal_inputs_are_asked_once() -> None:
    network, batch = curved(2), images(2)
    maps = torch.randn(3, 1, *SHAPES[2], dtype=torch.float64).expand(-1, 4, -1, -1)
    metrics = [Deletion(points=5, patch=4), Insertion(points=5, patch=4, fill=0.0), CompletenessGap(), ImpactScore()]
    engine = Engine(network, [ControlRandom()] * 4, B)
    scores = evaluate(engine, metrics, batch, names(3), maps[:, None])
    assert engine.forward_passes == 3 * (
        1 + (1 + 4) + (1 + 4) + 1 + 1
    )  # as it is, then metric by metric, once for all maps
    for score in scores:
        torch.testing.assert_close(score.value, score.value[:, :, :1].expand(-1, -1, 4), rtol=0, atol=0)
    other = maps.clone()
    other[0, 2, 0, 0] += 1e-9
    engine = Engine(network, [ControlRandom()] * 4, B)
    evaluate(engine, metrics[:1], batch, names(3), other[:, None])
    assert engine.forward_passes == 3 * (1 + 1 + 4 + 4)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("side", [1, 3])
def test_sensitivity_n_of_a_linear_networks_credit_is_one(dims: int, side: int) -> None:
    network, weights = linear(dims)
    batch = images(dims)
    credit = weights * batch[:, 0]
    noise = torch.randn_like(credit)
    score = values_of(network, SensitivityN(patch=side), batch, torch.stack([credit, -3 * credit, noise], 1))
    torch.testing.assert_close(score.value[:, 0, :2], torch.tensor([1.0, -1.0]).expand(3, -1), rtol=1e-5, atol=1e-5)
    assert score.value[:, 0, 2].abs().max() < 0.6
    assert score.curves["correlation"].shape == (3, 1, 3, 4)


def test_sensitivity_n_draws_random_sets_whatever_the_map_and_is_not_cumulative_removal() -> None:
    network, batch = curved(2), images(2, count=1)
    metric = SensitivityN(patch=4, shares=(0.2, 0.6), sets=300)
    one, two = torch.arange(320.0).view(1, *SHAPES[2]).double(), torch.randn(1, *SHAPES[2], dtype=torch.float64)
    score, inputs = asked(network, metric, batch, one)
    sets = (inputs[:, 0, ::4, ::4] == 0).flatten(1)
    assert sets.sum(1).tolist() == [4] * 300 + [12] * 300
    assert (sets[:300].double().mean(0) - 0.2).abs().max() < 0.1
    assert len(sets.unique(dim=0)) > 400  # cumulative removal has one set of a size
    _, again = asked(network, metric, batch, two)
    assert torch.equal(inputs, again)
    drops = (network(batch) - network(inputs))[:, 1]
    sums = (Grid(SHAPES[2], 4).totals(one) * sets).sum(1)
    by_hand = [np.corrcoef(sums[part], drops[part])[0, 1] for part in (slice(0, 300), slice(300, 600))]
    np.testing.assert_allclose(score.curves["correlation"][0, 0, 0], by_hand, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(score.value[0, 0, 0], np.mean(by_hand), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dims", [2, 3])
def test_infidelity_of_a_linear_networks_credit_is_zero_in_any_unit(dims: int) -> None:
    network, weights = linear(dims)
    batch = images(dims)
    credit = weights * batch[:, 0]
    score = values_of(
        network, Infidelity(side=4), batch, torch.stack([credit, 7 * credit, torch.zeros_like(credit)], 1)
    )
    assert score.value[:, 0, :2].max() < 1e-12
    assert score.value[:, 0, 2].min() > 1e-4


@pytest.mark.parametrize("dims", [2, 3])
def test_infidelity_equals_captums_with_the_same_squares(dims: int) -> None:
    network, batch = curved(dims), images(dims, count=1)
    batch = batch.abs() + 0.1  # so that what is hidden can be seen
    maps = torch.randn(1, *SHAPES[dims], dtype=torch.float64)
    score, inputs = asked(network, Infidelity(side=4, squares=30), batch, maps)
    hidden = (inputs == 0).double()
    assert set(hidden.flatten(1).sum(1).tolist()) == {4.0**dims}
    assert len(hidden.unique(dim=0)) > 20
    theirs = infidelity(
        network.module,
        lambda _: (hidden, inputs),
        batch,
        maps[:, None],
        target=1,
        n_perturb_samples=30,
        normalize=True,
    )
    torch.testing.assert_close(score.value[0, 0, 0].double(), theirs[0].double(), rtol=1e-5, atol=0)
    blank = values_of(network, Infidelity(side=4, squares=30), batch, torch.zeros_like(maps)).value
    drops = (network(batch) - network(inputs))[:, 1]
    torch.testing.assert_close(blank[0, 0, 0].double(), (drops**2).mean(), rtol=1e-5, atol=0)
    assert score.value[0, 0, 0] < blank[0, 0, 0]


@pytest.mark.parametrize(("dims", "shape"), [(2, (15, 12)), (3, (7, 6, 5))])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.95])
def test_imputation_solves_the_published_equations(dims: int, shape: tuple[int, ...], share: float) -> None:
    generator = torch.Generator().manual_seed(3)
    batch = torch.randn(2, 2, *shape, dtype=torch.float64, generator=generator)
    hidden = torch.rand(2, 1, *shape, generator=generator) < share
    ours = impute(batch, hidden, tolerance=1e-10)
    offsets = [offset for offset in np.ndindex(*[3] * dims) if any(step != 1 for step in offset)]
    for row in range(2):
        for channel in range(2):
            expected = by_sparse_solve(batch[row, channel].numpy(), hidden[row, 0].numpy(), offsets)
            np.testing.assert_allclose(ours[row, channel], expected, rtol=1e-6, atol=1e-7)
    assert torch.equal(ours[~hidden.expand_as(ours)], batch[~hidden.expand_as(ours)])
    alone = impute(batch[[1]], hidden[[1]], tolerance=1e-3)
    torch.testing.assert_close(impute(batch, hidden, tolerance=1e-3)[[1]], alone, rtol=0, atol=1e-12)


def by_sparse_solve(image: Any, hidden: Any, offsets: list[tuple[int, ...]]) -> Any:
    places = {place: number for number, place in enumerate(zip(*np.nonzero(hidden), strict=True))}
    matrix, right = lil_matrix((len(places), len(places))), np.zeros(len(places))
    for place, number in places.items():
        for offset in offsets:
            weight = 1 / sum((step - 1) ** 2 for step in offset)  # 2-D: 1 and 1/2, which is 1/6 and 1/12 of the sum
            other = tuple(index + step - 1 for index, step in zip(place, offset, strict=True))
            if any(not 0 <= index < size for index, size in zip(other, image.shape, strict=True)):
                continue
            matrix[number, number] += weight
            if other in places:
                matrix[number, places[other]] -= weight
            else:
                right[number] += weight * image[other]
    solved = image.copy()
    solved[hidden] = spsolve(matrix.tocsc(), right)
    return solved


@pytest.mark.parametrize("brightness", [0, 1000])
def test_imputation_leaves_less_than_a_quarter_of_the_noise_that_is_added(brightness: float) -> None:
    rough = torch.randn(2, 1, 96, 80, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    batch = nn.functional.avg_pool2d(rough, 5, 1, 2) + brightness
    places = torch.meshgrid(torch.arange(96) - 40, torch.arange(80) - 45, indexing="ij")
    hidden = (places[0] ** 2 + places[1] ** 2 < 34**2).expand(2, 1, -1, -1)  # one large piece is the hardest
    left = (impute(batch, hidden) - impute(batch, hidden, tolerance=1e-10))[hidden]
    assert 0 < left.square().mean().sqrt() < 0.01 / 4 * (batch.max() - batch.min())


@pytest.mark.parametrize("size", [1e-30, 1e30])
def test_imputation_is_as_near_for_small_and_large_numbers(size: float) -> None:
    batch = nn.functional.avg_pool2d(torch.randn(1, 1, 24, 20, generator=torch.Generator().manual_seed(3)), 5, 1, 2)
    hidden = torch.rand(1, 1, 24, 20, generator=torch.Generator().manual_seed(4)) < 0.8
    torch.testing.assert_close(impute(batch * size, hidden) / size, impute(batch, hidden), rtol=0, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 1), (8, 6), (3, 1, 4)])
def test_an_image_of_which_all_is_hidden_becomes_nought_and_leaves_others_as_they_are(shape: tuple[int, ...]) -> None:
    batch = torch.randn(2, 1, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    hidden = torch.ones(2, 1, *shape, dtype=torch.bool)
    hidden[1].flatten()[0] = False
    found = impute(batch, hidden)
    assert not found[0].any()
    torch.testing.assert_close(found[1], batch[1].flatten()[0].expand(found[1].shape))


@pytest.mark.parametrize("dims", [2, 3])
def test_road_hides_all_of_an_image_of_few_squares(dims: int) -> None:
    network, batch = curved(dims), images(dims, count=1)
    score = values_of(network, ROADMoRF(patch=max(SHAPES[dims])), batch, torch.ones(1, *SHAPES[dims]))
    assert score.value.isfinite().all()


@pytest.mark.parametrize("dims", [2, 3])
def test_road_asks_about_images_whose_strongest_places_are_imputed_with_noise(dims: int) -> None:
    network, batch = curved(dims), images(dims, count=1)
    maps = torch.randn(1, *SHAPES[dims], dtype=torch.float64)
    flat = maps.flatten()
    for metric, order in ((ROADMoRF(), flat.argsort(descending=True)), (ROADLeRF(), flat.argsort())):
        score, inputs = asked(network, metric, batch, maps)
        assert len(inputs) == 9
        for step, given in enumerate(inputs):
            count = round((step + 1) / 10 * len(flat))
            removed = torch.zeros(len(flat), dtype=torch.bool).index_fill(0, order[:count], True).view(maps.shape)
            assert torch.equal(given[~removed], batch[0][~removed])
            smooth = impute(batch, removed[:, None], tolerance=1e-10)
            noise = (given - smooth[0])[removed] / (batch.max() - batch.min())
            assert 0.005 < noise.std() < 0.015
        by_hand = network(inputs).softmax(1)[:, 1]
        torch.testing.assert_close(score.curves["probability"][0, 0, 0].double(), by_hand, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(score.value[0, 0, 0].double(), by_hand.mean(), rtol=1e-5, atol=1e-6)


def test_completeness_gap_is_zero_for_a_whole_share_and_one_for_a_blank_map() -> None:
    network, weights = linear(2)
    batch = images(2)
    credit = weights * batch[:, 0]
    maps = torch.stack([credit, torch.zeros_like(credit), 3 * credit], 1)
    value = values_of(network, CompletenessGap(), batch, maps).value[:, 0]
    torch.testing.assert_close(value, torch.tensor([0.0, 1.0, 2.0]).expand(3, -1), rtol=1e-4, atol=1e-4)
    nothing = values_of(network, CompletenessGap(), torch.zeros_like(batch), maps).value
    assert nothing.isnan().all()


class Brightest(nn.Module):
    """The probability of class b is high where the first places are bright."""

    def forward(self, x: Tensor) -> Tensor:
        strength = x.flatten(1)[:, :4].sum(1) - 2
        return torch.stack([-strength, strength], 1)


def bright(dims: int) -> tuple[Network, Tensor, Tensor]:
    batch = torch.ones(2, 1, *SHAPES[dims], dtype=torch.float64)
    right = torch.zeros(2, *SHAPES[dims])
    right.flatten(1)[:, :4] = torch.tensor([4.0, 3.0, 2.0, 1.0])
    return network_of(Brightest(), dims, "softmax"), batch, right


@pytest.mark.parametrize("dims", [2, 3])
def test_impact_is_one_where_the_decision_falls_with_the_strongest_places(dims: int) -> None:
    network, batch, right = bright(dims)
    wrong = right.flip(1)
    few = 4 / right[0].numel()
    maps = torch.stack([right, wrong], 1)
    assert values_of(network, ImpactScore(patch=1, share=few), batch, maps).value[:, 0].tolist() == [[1, 0]] * 2
    # one place of four: the decision stays, and the probability falls from 0.98 to 0.88
    one = few / 4
    assert values_of(network, ImpactScore(patch=1, share=one), batch, maps).value[:, 0].tolist() == [[0, 0]] * 2
    high = ImpactScore(patch=1, share=one, falls_to=0.95)
    assert values_of(network, high, batch, maps).value[:, 0].tolist() == [[1, 0]] * 2
    # two places: 0.5, no longer more than the other class and not yet half of what it was
    assert float(network(batch).softmax(1)[0, 1]) / 2 < 0.5
    weak = ImpactScore(patch=1, share=2.6 / right[0].numel())
    assert values_of(network, weak, batch, maps).value[:, 0].tolist() == [[1, 0]] * 2


def test_impact_has_no_meaning_for_a_regression() -> None:
    network, _ = linear(2)
    with pytest.raises(ValueError, match="impact_score: the model is a regression"):
        values_of(network, ImpactScore(), images(2), images(2)[:, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_effective_complexity_is_the_share_that_makes_the_prediction(dims: int) -> None:
    network, batch, right = bright(dims)
    count = right[0].numel()
    metric = EffectiveComplexity(patch=1, points=count, tolerance=0.01)
    value = values_of(network, metric, batch, torch.stack([right, -right, right.flip(1) - 0.5], 1)).value[:, 0]
    np.testing.assert_allclose(value[:, :2], 4 / count, rtol=1e-6)  # by magnitude
    assert (value[:, 2] > 0.3).all()
    half = EffectiveComplexity(patch=1, points=count, tolerance=0.2)
    np.testing.assert_allclose(values_of(network, half, batch, right).value, 3 / count, rtol=1e-6)


def test_masks_do_not_matter_to_faithfulness() -> None:
    network, batch = curved(2), images(2)
    maps = torch.randn(3, *SHAPES[2], dtype=torch.float64)
    with_masks = values_of(network, Deletion(patch=4), batch, maps, masks=boxes(2))
    assert torch.equal(with_masks.value, values_of(network, Deletion(patch=4), batch, maps).value)
