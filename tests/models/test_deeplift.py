"""DeepLIFT, DeepSHAP and expected gradients against Captum and their axioms."""

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from numpy.typing import NDArray
from torch import Tensor, nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.deeplift import DeepLIFT
from models.explainers.deepshap import DeepSHAP
from models.explainers.expected_gradients import ExpectedGradients
from models.explainers.input_x_gradient import InputXGradient
from models.network import Network
from models.targets import Classes, Predicted
from tests.models.networks import NETWORKS, difference, images, make, names, wrap

B = Classes(classes=("b",))
Array = NDArray[np.float64]
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
POOL = {2: nn.AvgPool2d, 3: nn.AvgPool3d}
MEAN = {2: nn.AdaptiveAvgPool2d, 3: nn.AdaptiveAvgPool3d}


def explain(network: Network, explainer: Any, batch: Tensor, **options: Any) -> Tensor:
    return Engine(network, [explainer], B, **options).explain(batch, names(batch)).maps[:, 0, 0]


def pooled(dims: int) -> Network:
    """A network that Captum is right on: no module is used twice, and no maximum is taken."""
    torch.manual_seed(0)
    body = (CONV[dims](1, 5, 3), nn.ReLU(), POOL[dims](2), CONV[dims](5, 6, 3), nn.Tanh(), POOL[dims](3), nn.ELU())
    return wrap(nn.Sequential(*body, MEAN[dims](1), nn.Flatten(), nn.Linear(6, 4)), dims)


@pytest.mark.parametrize("dims", [2, 3])
def test_deeplift_equals_captums(dims: int) -> None:
    network, batch = pooled(dims), images(dims, count=2)
    theirs = attr.DeepLift(network.module).attribute(batch, torch.full_like(batch, 0.3), target=1)
    assert difference(explain(network, DeepLIFT(baseline=0.3), batch), theirs[:, 0]) < 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_deepshap_equals_captums(dims: int) -> None:
    network, batch = pooled(dims), images(dims, count=5)
    theirs = attr.DeepLiftShap(network.module).attribute(batch[:2], batch[2:], target=1)
    assert difference(explain(network, DeepSHAP(), batch[:2], fitted={"background": batch[2:]}), theirs[:, 0]) < 1e-6


@pytest.mark.parametrize("name", NETWORKS)
def test_what_differs_from_the_reference_is_credited_whole(name: str) -> None:
    """On overlapping pools, gates, norms and residuals, where Captum's maps do not sum up."""
    network, batch = make(name, 2), images(2, count=5)
    batch, background = batch[:2], batch[2:]
    logits = network.module(batch)[:, 1]
    for rule in ("rescale", "reveal_cancel"):
        lifted = explain(network, DeepLIFT(baseline=0.2, rule=rule), batch)
        assert torch.allclose(lifted.flatten(1).sum(1), logits - network.module(torch.full_like(batch, 0.2))[:, 1])
    shapley = explain(network, DeepSHAP(), batch, fitted={"background": background}, batch_size=4)
    assert torch.allclose(shapley.flatten(1).sum(1), logits - network.module(background)[:, 1].mean())


@pytest.mark.parametrize(("size", "stride"), [(2, 2), (3, 2)])
def test_a_maximum_credits_the_places_of_both_maxima(size: int, stride: int) -> None:
    side = (48 - size) // stride + 1
    height = (64 - size) // stride + 1
    torch.manual_seed(0)
    network = wrap(nn.Sequential(nn.MaxPool2d(size, stride), nn.Flatten(), nn.Linear(height * side, 4)))
    batch = images(2, count=2)
    image, other = batch[0, 0], batch[1, 0]
    weight = network.module[2].weight[1].view(height, side)
    expected = torch.zeros_like(image)
    for y in range(height):
        for x in range(side):
            window = (slice(y * stride, y * stride + size), slice(x * stride, x * stride + size))
            ours, theirs = image[window], other[window]
            larger = max(ours.max(), theirs.max())
            for place, credit in ((ours.argmax(), larger - theirs.max()), (theirs.argmax(), ours.max() - larger)):
                row, column = divmod(int(place), size)
                expected[y * stride + row, x * stride + column] += weight[y, x] * credit
    found = explain(network, DeepSHAP(), batch[:1], fitted={"background": batch[1:]})[0]
    assert difference(found, expected) < 1e-9


def test_a_product_is_shared_by_the_mean_of_the_other_factor() -> None:
    class Product(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.other = nn.Linear(64 * 48, 4), nn.Linear(64 * 48, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.one(x) * self.other(x)

    torch.manual_seed(0)
    network, batch = wrap(Product()), images(2, count=2)
    one, other = network.module.one, network.module.other
    flat = batch.flatten(1)
    mean_one, mean_other = ((part(flat)[:, 1:2] + part.bias[1]) / 2 for part in (one, other))
    expected = flat * (one.weight[1] * mean_other + other.weight[1] * mean_one)
    assert difference(explain(network, DeepLIFT(), batch).flatten(1), expected) < 1e-9


def dense(*widths: int, activation: type[nn.Module] = nn.ReLU) -> Network:
    torch.manual_seed(0)
    layers = [part for sides in pairwise(widths) for part in (nn.Linear(*sides), activation())]
    return wrap(nn.Sequential(nn.Flatten(), *layers[:-1]), shape=(1, widths[0]))


def revealed(module: nn.Sequential, image: Array, baseline: float) -> Array:
    """Compute the credit of each pixel for class b, by the formulas of Shrikumar et al. 2017, output by output."""
    layers = [part for part in module if isinstance(part, nn.Linear)]
    (function,) = {type(part): part for part in module if not isinstance(part, nn.Linear | nn.Flatten)}.values()
    f = lambda value: function(torch.as_tensor(value)).numpy()  # noqa: E731
    before, gained = np.full_like(image, baseline), image - baseline
    slopes = []
    for layer in layers[:-1]:
        adds = layer.weight.numpy() * gained
        positive, negative = np.maximum(adds, 0).sum(1), np.minimum(adds, 0).sum(1)
        start = layer.weight.numpy() @ before + layer.bias.numpy()
        end = start + positive + negative
        up = (f(start + positive) - f(start) + f(end) - f(start + negative)) / 2
        down = (f(start + negative) - f(start) + f(end) - f(start + positive)) / 2
        steep = [np.divide(y, z, out=np.zeros_like(y), where=z != 0) for y, z in ((up, positive), (down, negative))]
        of_input = np.where(adds > 0, steep[0][:, None], steep[1][:, None])
        slopes.append(np.where(adds == 0, (steep[0] + steep[1])[:, None] / 2, of_input) * layer.weight.numpy())
        before, gained = f(start), up + down
    multiplier = layers[-1].weight[1].numpy()
    for slope in reversed(slopes):
        multiplier = multiplier @ slope
    return multiplier * (image - baseline)


@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh, nn.Sigmoid])
@pytest.mark.parametrize("widths", [(6, 8, 4), (6, 8, 7, 4)])
def test_reveal_cancel_follows_its_formulas(widths: tuple[int, ...], activation: type[nn.Module]) -> None:
    network = dense(*widths, activation=activation)
    batch = torch.randn(3, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    batch[:, 0, 0, 2] = 0.3  # as the reference is
    expected = np.stack([revealed(network.module, image, 0.3) for image in batch.flatten(1).numpy()])
    found = explain(network, DeepLIFT(baseline=0.3, rule="reveal_cancel"), batch).flatten(1)
    assert difference(found, torch.as_tensor(expected)) < 1e-9
    assert difference(explain(network, DeepLIFT(baseline=0.3), batch).flatten(1), found) > 0.01


def test_reveal_cancel_shares_a_minimum_that_rescale_gives_to_one() -> None:
    """The example of section 3.4: ``min(i, j) = i - relu(i - j)``."""
    network = dense(2, 2, 4)
    hidden, head = network.module[1], network.module[3]
    hidden.weight.data, hidden.bias.data = torch.tensor([[1.0, 0.0], [1.0, -1.0]]).double(), torch.zeros(2).double()
    head.weight.data, head.bias.data = torch.tensor([[1.0, -1.0]]).double().expand(4, 2), torch.zeros(4).double()
    batch = torch.tensor([[3.0, 2.0], [2.0, 3.0]], dtype=torch.float64).view(2, 1, 1, 2)
    assert network.module(batch)[:, 1].tolist() == [2, 2]
    assert explain(network, DeepLIFT(rule="reveal_cancel"), batch).flatten(1).tolist() == [[1, 1], [1, 1]]
    assert explain(network, DeepLIFT(), batch).flatten(1).tolist() == [[0, 2], [2, 0]]


def test_reveal_cancel_knows_no_parts_of_an_output_to_which_another_was_added_in_place() -> None:
    class Residual(nn.Module):
        def __init__(self, in_place: bool) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.first, self.second, self.head = nn.Linear(6, 6), nn.Linear(6, 6), nn.Linear(6, 4)
            self.in_place = in_place

        def forward(self, x: Tensor) -> Tensor:
            x = self.first(x.flatten(1)).relu()
            y = self.second(x)
            return self.head((y.add_(x) if self.in_place else y + x).relu())

    batch = torch.randn(3, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    one, other = (
        explain(wrap(Residual(in_place), shape=(1, 6)), DeepLIFT(rule="reveal_cancel"), batch)
        for in_place in (True, False)
    )
    assert difference(one, other) < 1e-12


def test_reveal_cancel_reaches_through_what_moves_values_and_is_refused_where_it_is_rescale() -> None:
    class Moving(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.head = nn.Linear(6, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.dropout(self.first(x.flatten(1)).view(-1, 2, 4).transpose(1, 2), 0.5, self.training)
            return self.head(x.relu_().transpose(1, 2).flatten(1))

    plain, moving = dense(6, 8, 4), Moving().double()
    moving.first, moving.head = plain.module[1], plain.module[3]
    batch = torch.randn(3, 1, 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    explainer = DeepLIFT(rule="reveal_cancel")
    found = explain(wrap(moving, shape=(1, 6)), explainer, batch)
    assert difference(found, explain(plain, explainer, batch)) < 1e-9
    pooled = nn.Sequential(nn.Conv2d(1, 4, 3), nn.AvgPool2d(2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    with pytest.raises(ValueError, match="deeplift: Sequential has no activation that takes the output of a linear"):
        Engine(wrap(pooled), [explainer], B)


def test_layers_without_a_rule_are_refused() -> None:
    module = nn.Sequential(nn.Flatten(), nn.LayerNorm(64 * 48), nn.Linear(64 * 48, 4))
    for explainer in (DeepLIFT(), DeepSHAP()):
        with pytest.raises(ValueError, match=rf"{explainer.name}: Sequential: there is no rule for layer_norm"):
            Engine(wrap(module), [explainer], B, fitted={"background": images(2)})


def test_expected_gradients_are_the_mean_over_points_between_image_and_background() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=6)
    batch, background = batch[:2], batch[2:]
    asked: list[Tensor] = []
    engine = Engine(network, [ExpectedGradients(samples=7)], B, batch_size=5, fitted={"background": background})
    handle = network.module.register_forward_hook(lambda _, inputs, __: asked.append(inputs[0].detach()))
    found = engine.explain(batch, names(batch)).maps[:, 0, 0]
    handle.remove()
    points = torch.cat(asked)[2:].view(2, 7, 1, *batch.shape[2:])
    starts = set()
    total = torch.zeros_like(batch[:, 0])
    for row, image in enumerate(batch):
        for step, point in enumerate(points[row]):
            line = [(image - start, point - start, start) for start in background]
            share, own = min(
                ((float((way * full).sum() / (full * full).sum()), full) for full, way, _ in line),
                key=lambda pair: float((point - (image - pair[1]) - pair[0] * pair[1]).norm()),
            )
            assert (point - (image - own) - share * own).norm() < 1e-4
            assert step / 7 - 1e-6 <= share <= (step + 1) / 7 + 1e-6
            starts.add(round(float((image - own).sum()), 6))
            gradient = attr.Saliency(network.module).attribute(point[None].clone(), target=1, abs=False)
            total[row] += (own * gradient[0])[0] / 7
    assert len(starts) > 2
    assert difference(found, total) < 1e-6


def test_expected_gradients_sum_to_the_difference_from_the_background() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=6)
    network.module.classifier.weight.data *= 30
    batch, background = 3 * batch[:2], batch[2:]
    found = explain(network, ExpectedGradients(samples=200), batch, fitted={"background": background})
    expected = network.module(batch)[:, 1] - network.module(background)[:, 1].mean()
    assert difference(found.flatten(1).sum(1), expected) < 0.1


@pytest.mark.parametrize("explainer", [DeepSHAP(), ExpectedGradients(label="expected")])
def test_an_engine_without_the_background_says_so_when_it_is_asked(explainer: Any) -> None:
    batch = images(2, count=2)
    engine = Engine(pooled(2), [InputXGradient(), explainer], B)
    asked = engine.batch(batch, names(batch))
    for ask in (lambda: engine.explain(batch, names(batch)), lambda: engine.maps(asked)):
        with pytest.raises(ConfigurationError, match=rf"^{explainer.title}: uses the artefact 'background'"):
            ask()
    engine = Engine(pooled(2), [InputXGradient(), explainer], B, fitted={"background": batch})
    assert engine.explain(batch, names(batch)).maps.isfinite().all()


def test_maps_depend_on_the_image_alone() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=6)
    batch, background = batch[:3], batch[3:]
    for explainer in (DeepLIFT(), DeepLIFT(rule="reveal_cancel"), DeepSHAP(), ExpectedGradients(samples=5)):
        engine = Engine(network, [explainer], Predicted(), fitted={"background": background})
        together = engine.explain(batch, names(batch)).maps
        alone = [engine.explain(batch[[row]], names(batch)[row : row + 1]).maps for row in range(3)]
        assert difference(torch.cat(alone), together) < 1e-9
