"""Expressive gradients against Captum's integrated gradients of layers, and their completeness."""

from typing import Any

import pytest
import torch
from captum import attr
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.expressive_gradients import ExpressiveGradients
from models.explainers.integrated_gradients import IntegratedGradients
from models.network import Network
from models.targets import Classes, Predicted
from models.windows import Windows
from tests.models.networks import SHAPES, difference, images, make, names, wrap

B = Classes(classes=("b",))
LAYERS = {"AttentionGated": ("blocks.1", "blocks.2"), "ResNet18": ("layer2", "layer4")}


def explain(network: Network, explainer: Any, batch: Tensor, **options: Any) -> Tensor:
    return Engine(network, [explainer], B, **options).explain(batch, names(batch)).maps[:, 0, 0]


def captums(network: Network, layer: str, batch: Tensor, steps: int) -> Tensor:
    """Integrated gradients of a layer, on the image's grid, with the sum that they have on the layer's."""
    module = network.module
    oracle = attr.LayerIntegratedGradients(module, module.get_submodule(layer))
    values = oracle.attribute(batch, torch.full_like(batch, 0.3), target=1, n_steps=steps).sum(1, keepdim=True)
    mode = "bilinear" if batch.ndim == 4 else "trilinear"
    resized = nn.functional.interpolate(values.detach(), batch.shape[2:], mode=mode)
    return resized[:, 0] * (values[0].numel() / batch[0, 0].numel())


@pytest.mark.parametrize(
    ("name", "dims", "steps"), [("AttentionGated", 2, 8), ("AttentionGated", 3, 3), ("ResNet18", 2, 5)]
)
def test_the_map_is_the_weighted_mean_of_captums_for_image_and_layers(name: str, dims: int, steps: int) -> None:
    network, batch = make(name, dims), images(dims, count=2)
    of_image = attr.IntegratedGradients(network.module).attribute(batch, 0.3, target=1, n_steps=steps)[:, 0]
    of_layers = [captums(network, layer, batch, steps) for layer in LAYERS[name]]
    assert difference(of_layers[1], of_layers[0]) > 0.1
    for weights, shares in ((None, (1 / 3, 1 / 3, 1 / 3)), ((1.0, 3.0, 0.0), (0.25, 0.75, 0.0))):
        explainer = ExpressiveGradients(layers=LAYERS[name], weights=weights, steps=steps, baseline=0.3)
        expected = sum(share * part for share, part in zip(shares, (of_image, *of_layers), strict=True))
        assert difference(explain(network, explainer, batch, batch_size=3), expected) < 1e-6


@pytest.mark.parametrize("dims", [2, 3])
def test_the_map_sums_to_what_the_score_gains_where_all_goes_through_the_layers(dims: int) -> None:
    conv = nn.Conv2d if dims == 2 else nn.Conv3d
    pool = nn.AdaptiveAvgPool2d if dims == 2 else nn.AdaptiveAvgPool3d
    torch.manual_seed(0)
    body = (conv(1, 4, 2, stride=2), nn.Tanh(), conv(4, 6, 2, stride=2), nn.Tanh())
    network, batch = wrap(nn.Sequential(*body, pool(1), nn.Flatten(), nn.Linear(6, 4)), dims), images(dims, count=2)
    gained = network.module(batch)[:, 1] - network.module(torch.full_like(batch, 0.5))[:, 1]
    for layers in (None, ("0",), ("1", "2")):
        found = explain(network, ExpressiveGradients(layers=layers, steps=30, baseline=0.5), batch)
        assert torch.allclose(found.flatten(1).sum(1), gained, rtol=1e-4), layers


def test_with_the_image_alone_it_is_integrated_gradients_whose_questions_it_shares() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=2)
    explainers = [ExpressiveGradients(weights=(1.0, 0.0), steps=4), IntegratedGradients(steps=4)]
    engine = Engine(network, explainers, B)
    maps = engine.explain(batch, names(batch)).maps
    assert torch.equal(maps[:, 0, 0], maps[:, 0, 1])
    assert engine.forward_passes == 2 * (1 + 4 + 4)


def test_each_image_has_its_own_target_whatever_is_beside_it() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    engine = Engine(network, [ExpressiveGradients(layers=("blocks.1",), steps=3)], Predicted(k=2), batch_size=4)
    together = engine.explain(batch, names(batch)).maps
    alone = [engine.explain(batch[[row]], names(batch)[row : row + 1]).maps for row in range(len(batch))]
    assert difference(torch.cat(alone), together) < 1e-9


@pytest.mark.parametrize(
    ("layers", "weights"), [(None, (1.0,)), (("a", "b"), (1.0, 1.0)), (None, (-1.0, 2.0)), (None, (0.0, 0.0))]
)
def test_weights_are_one_for_the_image_and_one_for_each_layer(layers: Any, weights: Any) -> None:
    with pytest.raises(ValueError, match=f"need {2 if layers is None else 3} numbers, one for the image"):
        ExpressiveGradients(layers=layers, weights=weights)


def test_a_layer_that_is_called_twice_is_refused() -> None:
    torch.manual_seed(0)
    twice = nn.Conv2d(4, 4, 3, padding=1)
    module = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.ReLU(), twice, nn.ReLU(), twice, nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(ValueError, match=r"expressive_gradients: layer '2' is called more than once .* name another"):
        Engine(wrap(module), [ExpressiveGradients(layers=("2",))], B)


def test_a_layer_that_is_not_there_and_windows_are_refused() -> None:
    network = make("ResNet18", 2)
    with pytest.raises(ValueError, match="expressive_gradients: there is no layer 'layer9'; the nearest names are"):
        Engine(network, [ExpressiveGradients(layers=("layer9",))], B)
    windows = Windows(image_shape=tuple(2 * side for side in SHAPES[2]))
    network.config = network.config.model_copy(update={"windows": windows})
    with pytest.raises(
        ValueError, match=r"expressive_gradients: .* model.windows .* use integrated_gradients or layercam"
    ):
        Engine(network, [ExpressiveGradients()], B)
