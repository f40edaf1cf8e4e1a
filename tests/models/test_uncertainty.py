"""Members, and what they say together, held against what is worked out by hand."""

import numpy as np
import pytest
import torch
from scipy import ndimage, stats
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.gradcam import GradCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.lrp import LRP
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.metrics.evaluate import as_explained
from models.network import Network
from models.targets import Classes, Predicted, Region
from models.uncertainty import MCDropout, Member, TestTimeAugmentation, ask_members
from models.uncertainty.affine import Affine
from tests.models.networks import difference, images, names, wrap

SHAPE = (16, 12)
SALIENCY, PREDICTED = (Saliency(),), Predicted()


def dropping(dims: int = 2, rate: float = 0.5) -> Network:
    torch.manual_seed(5)
    conv, drop = ((nn.Conv2d, nn.Dropout2d), (nn.Conv3d, nn.Dropout3d))[dims - 2]
    pool = nn.AdaptiveAvgPool2d(1) if dims == 2 else nn.AdaptiveAvgPool3d(1)
    layers = [conv(1, 6, 3, padding=1), nn.ReLU(), drop(rate), conv(6, 8, 3, padding=1), nn.ReLU(), nn.Dropout(rate)]
    return wrap(nn.Sequential(*layers, pool, nn.Flatten(), nn.Dropout(rate), nn.Linear(8, 4)), dims, shape=grid(dims))


def grid(dims: int) -> tuple[int, ...]:
    return SHAPE if dims == 2 else (8, *SHAPE)


def batch(dims: int = 2, count: int = 3) -> Tensor:
    return images(dims, count=count)[(..., *map(slice, grid(dims)))]


def spread_of(network, members, given, explainers=SALIENCY, target=PREDICTED, only=None):  # type: ignore[no-untyped-def]
    engine = Engine(network, explainers, target, batch_size=4)
    asked = as_explained(engine, given, names(given), None, None)
    return ask_members(engine, members, asked, only), asked


def plain(network, given, target=PREDICTED):  # type: ignore[no-untyped-def]
    """Saliency of the network as it is."""
    engine = Engine(network, SALIENCY, target)
    return engine.maps(engine.batch(given, names(given)))


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity"])
def test_entropy_and_mutual_information_by_hand(activation: str) -> None:
    network = dropping()
    network.config = network.config.model_copy(update={"activation": activation})
    members = MCDropout(samples=7).members(network)
    found, _ = spread_of(network, members, batch())
    p = torch.stack([member.network.probability(member.network(batch())) for member in members]).numpy()
    assert np.allclose(found.outputs, p.std(0, ddof=1), atol=1e-6)
    if activation == "identity":
        assert found.entropy is None and found.mutual_information is None
        return
    if activation == "softmax":
        of_mean, mean_of = stats.entropy(p.mean(0), axis=1, base=2), stats.entropy(p, axis=2, base=2).mean(0)
        expected = of_mean, of_mean - mean_of
    else:
        both = np.stack([p, 1 - p])
        of_mean, each = stats.entropy(both.mean(1), base=2), stats.entropy(both, base=2)
        expected = of_mean.max(1), (of_mean - each.mean(0)).max(1)
    assert np.allclose(found.entropy, expected[0], atol=1e-6)
    assert np.allclose(found.mutual_information, expected[1], atol=1e-6)
    assert (found.mutual_information > 0.001).all()


def test_members_that_do_not_differ_have_no_spread() -> None:
    network = dropping()
    found, _ = spread_of(network, [Member(network)] * 3, batch())
    assert difference(found.mean.double(), plain(network, batch())) < 1e-6
    for nothing in (found.spread, found.maps, found.outputs, found.mutual_information):
        assert nothing.abs().max() < 1e-6
    assert (found.entropy > 0.1).all()


@pytest.mark.parametrize("dims", [2, 3])
def test_mean_and_spread_of_maps_by_hand(dims: int) -> None:
    network = dropping(dims)
    members = MCDropout(samples=5).members(network)
    explainers = (Saliency(), IntegratedGradients(steps=3))
    found, asked = spread_of(network, members, batch(dims), explainers, Classes(classes=("b", "d")))
    maps = torch.stack(
        [
            (own := Engine(member.network, explainers, Classes(classes=("b", "d")))).maps(
                own.batch(asked.images, asked.ids)
            )
            for member in members
        ]
    )
    assert difference(found.mean.double(), maps.mean(0)) < 1e-6
    assert difference(found.spread.double(), maps.std(0)) < 1e-6
    share = maps.std(0).flatten(3).norm(dim=-1) / maps.mean(0).flatten(3).norm(dim=-1)
    assert torch.allclose(found.maps.double(), share)


def test_a_member_explains_the_class_that_the_network_chose() -> None:
    network = dropping()
    members = MCDropout(samples=12).members(network)
    given = batch(count=3)
    chosen = network(given).argmax(1)
    assert any((member.network(given).argmax(1) != chosen).any() for member in members)
    found, _ = spread_of(network, members, given)
    expected = []
    for member in members:
        asked = given.clone().requires_grad_()
        member.network(asked).gather(1, chosen[:, None]).sum().backward()
        assert asked.grad is not None
        expected.append(asked.grad[:, 0])
    assert difference(found.mean[:, 0, 0].double(), torch.stack(expected).mean(0)) < 1e-6


def test_draws_of_dropout_are_what_dropout_does() -> None:
    torch.manual_seed(0)
    linear = wrap(nn.Sequential(nn.Flatten(), nn.Dropout(0.3), nn.Linear(192, 4)), shape=SHAPE)
    given = batch()
    drawn = torch.stack([member.network(given) for member in MCDropout(samples=800).members(linear)])
    weights = linear.module[2].weight  # type: ignore[index]
    variance = 0.3 / 0.7 * (given.flatten(1)[:, None] * weights).square().sum(-1)
    assert ((drawn.mean(0) - linear(given)).abs() < 4 * (variance / 800).sqrt()).all()
    assert torch.allclose(drawn.var(0), variance, rtol=0.25)


def test_a_draw_is_a_network_whatever_batch_it_is_asked_in_and_shares_the_weights() -> None:
    network = dropping()
    (member, other), given = MCDropout(samples=2).members(network), batch()
    together = member.network(given)
    assert torch.allclose(torch.cat([member.network(image[None]) for image in given]), together, rtol=1e-12)
    assert torch.equal(member.network(given), together) and not torch.allclose(other.network(given), together)
    assert torch.equal(MCDropout(samples=5).members(network)[0].network(given), together)
    pairs = zip(network.module.parameters(), member.network.module.parameters(), strict=True)
    assert all(own is theirs for own, theirs in pairs)
    assert not any("Thinning" in type(part).__name__ for part in network.module.modules())
    kept = member.network.module[2](torch.ones(2, 6, *SHAPE, dtype=torch.float64))  # type: ignore[operator,index]
    assert set(kept.unique().tolist()) <= {0.0, 2.0} and (kept.flatten(2).std(-1) == 0).all()


@pytest.mark.parametrize("explainer", [Occlusion(window=4, stride=4), LRP(), GradCAM(), InputXGradient()])
def test_explainers_that_take_networks_apart_are_right_on_a_thinned_one(explainer) -> None:  # type: ignore[no-untyped-def]
    network, given = dropping(), batch()
    (member, _) = MCDropout(samples=2).members(network)
    engine = Engine(member.network, [explainer], Classes(classes=("a",)))
    batched = engine.batch(given, names(given))
    maps = engine.maps(batched)[:, 0, 0]
    plain = member.network(given)[:, 0]
    if isinstance(explainer, Occlusion):
        hidden = given.clone()
        hidden[..., 4:8, 8:12] = 0
        effect = plain - member.network(hidden)[:, 0]
        assert torch.allclose(maps[:, 5, 9], effect, atol=1e-9)
    elif isinstance(explainer, GradCAM):
        seen = member.network.module[:6](given)  # type: ignore[index]
        weights = torch.autograd.functional.jacobian(lambda x: member.network.module[6:](x)[:, 0].sum(), seen)  # type: ignore[index]
        cam = (weights.mean((2, 3), keepdim=True) * seen).sum(1).relu()
        assert difference(maps, cam) < 1e-9
    elif isinstance(explainer, InputXGradient):
        asked = given.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(member.network(asked)[:, 0].sum(), asked)
        assert difference(maps, (given * gradient)[:, 0]) < 1e-9
    else:
        whole = Engine(network, [explainer], Classes(classes=("a",))).explain(given, names(given))
        assert maps.isfinite().all() and not torch.allclose(maps, whole.maps[:, 0, 0])


@pytest.mark.parametrize("dims", [2, 3])
def test_views_are_those_of_scipy_and_come_back(dims: int) -> None:
    kind = TestTimeAugmentation(degrees=30, shift=0.1, flip=("x",))
    smooth = torch.from_numpy(np.stack([ndimage.gaussian_filter(image[0].numpy(), 2.5) for image in batch(dims, 4)]))[
        :, None
    ]
    view = kind._view(3, names(smooth), smooth)
    looked = view.look(smooth)
    size = np.array(grid(dims))
    for matrix, own, seen in zip(view.matrices.numpy(), smooth[:, 0].numpy(), looked[:, 0].numpy(), strict=True):
        turn, shift = matrix[::-1, :dims][:, ::-1], matrix[::-1, dims]  # from x first to x last
        turn, shift = turn * size[:, None] / size, shift * size / 2  # from [-1, 1] to places
        assert np.allclose(turn @ turn.T, np.eye(dims), atol=1e-9)
        centre = (size - 1) / 2
        expected = ndimage.affine_transform(own, turn, centre + shift - turn @ centre, order=1, mode="nearest")
        assert np.allclose(seen, expected, atol=1e-9)
    inside = tuple(slice(side // 3, -(side // 3)) for side in grid(dims))
    assert difference(view.back(looked)[(..., *inside)], smooth[(..., *inside)]) < 0.25
    mirrored = Affine(torch.diag_embed(torch.tensor([-1.0, *[1.0] * (dims - 1)]).double())[None].expand(4, -1, -1))
    flipped = Affine(torch.cat([mirrored.matrices, torch.zeros(4, dims, 1)], dim=2))
    assert torch.allclose(flipped.look(smooth), smooth.flip(-1)) and torch.allclose(
        flipped.back(smooth), smooth.flip(-1)
    )


def test_maps_of_mirrored_views_are_mirrored_back() -> None:
    torch.manual_seed(1)
    conv = nn.Conv2d(1, 4, 3, padding=1)
    conv.weight.data = conv.weight.data + conv.weight.data.flip(-1)
    even = wrap(nn.Sequential(conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 4)), shape=SHAPE)
    members = TestTimeAugmentation(samples=6, degrees=0, shift=0, flip=("x",)).members(even)
    views = [member.view(names(batch()), batch()) for member in members if member.view]
    assert {-1.0, 1.0} == {float(own) for view in views for own in view.matrices[:, 0, 0]}  # type: ignore[attr-defined]
    found, _ = spread_of(even, members, batch())
    assert found.maps.max() < 1e-6 and found.outputs.max() < 1e-6
    assert difference(found.mean.double(), plain(even, batch())) < 1e-6
    found, _ = spread_of(dropping(), TestTimeAugmentation(samples=3).members(dropping()), batch())
    assert (found.maps > 0.05).all()


def test_segmentations_are_taken_back_too() -> None:
    torch.manual_seed(1)
    segments = wrap(nn.Conv2d(1, 4, 3, padding=1), shape=SHAPE)
    target = Region(classes=("a", "b"))
    members = TestTimeAugmentation(samples=4, degrees=0, shift=0).members(segments)
    found, _ = spread_of(segments, members, batch(), target=target)
    assert found.outputs.shape == (3, 4) and found.outputs.max() < 1e-6
    assert difference(found.mean.double(), plain(segments, batch(), target)) < 1e-6
    probability = segments(batch()).softmax(1).numpy()
    assert np.allclose(found.entropy, stats.entropy(probability, axis=1, base=2).mean((1, 2)), atol=1e-6)


def test_some_explainers_only_and_none() -> None:
    network = dropping()
    found, _ = spread_of(
        network, MCDropout(samples=2).members(network), batch(), (Saliency(), GradCAM()), only=("gradcam",)
    )
    assert found.mean[:, :, 0].isnan().all() and found.maps[:, :, 1].isfinite().all()
    for kind in (MCDropout(samples=2), TestTimeAugmentation(samples=2)):
        found, _ = spread_of(network, kind.members(network), batch(), ())
        assert found.entropy.isfinite().all() and found.mean.shape == (3, 1, 0, *SHAPE)


def test_what_is_not_to_be_had_is_refused() -> None:
    without = wrap(nn.Sequential(nn.Flatten(), nn.Linear(192, 4)), shape=SHAPE)
    with pytest.raises(ValueError, match="Sequential has no dropout: use test_time_augmentation"):
        MCDropout().check(without)
    with pytest.raises(ValueError, match=r"flip names \['z'\], but the images have the axes \['y', 'x'\]"):
        TestTimeAugmentation(flip=("z",)).check(without)
    MCDropout().check(dropping())
