"""Targets: which scalars are explained, against their definition by hand."""

from typing import Any

import pytest
import torch
from captum import attr
from monai.networks.nets import UNet
from torch import Tensor, nn

from models.engine import Engine, Explanation
from models.explainers.gradcam import GradCAM
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.occlusion import Occlusion
from models.explainers.rise import RISE
from models.explainers.saliency import Saliency
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes, Difference, OverThreshold, Predicted, Region
from tests.models.networks import CLASSES, difference, images, make, names, wrap


def explain(network: Network, target: Any, batch: Tensor, *explainers: Any, **options: Any) -> Explanation:
    engine = Engine(network, explainers or [Saliency()], target, batch_size=3)
    return engine.explain(batch, names(batch), **options)


def with_activation(activation: Any, dims: int = 2) -> Network:
    module = make("AttentionGated", dims).module
    module.classifier.weight.data *= 100
    shape = tuple(images(dims).shape[2:])
    config = NetworkConfig(network={"_target_": "a.B"}, classes=CLASSES, input_shape=shape, activation=activation)
    return Network(module, config)


def segmenter(dims: int = 2, activation: Any = "softmax") -> Network:
    torch.manual_seed(0)
    shape = (32, 24) if dims == 2 else (16, 16, 8)
    config = NetworkConfig(network={"_target_": "a.B"}, classes=CLASSES, input_shape=shape, activation=activation)
    return Network(UNet(dims, 1, 4, (4, 8), (2,), bias=True).double(), config)


def test_every_class_over_its_threshold_is_explained_and_no_other() -> None:
    network, batch = with_activation("sigmoid"), images(2)
    limits = {"a": 0.5, "b": 0.9, "c": 0.2, "d": 1.0}
    found = explain(
        network, OverThreshold(threshold=limits), batch, Saliency(), GradCAM(), IntegratedGradients(steps=3)
    )
    over = found.logits.sigmoid() > torch.tensor(list(limits.values()))
    assert over.any() and not over.all()
    assert torch.equal(found.target_class, torch.arange(4).expand(5, -1).where(over, -1))
    every = explain(network, Classes(classes=CLASSES), batch, Saliency(), GradCAM(), IntegratedGradients(steps=3))
    assert torch.equal(found.maps.isnan().flatten(3).all(-1), ~over[..., None].expand(-1, -1, 3))
    assert difference(found.maps[over], every.maps[over]) < 1e-9
    assert not found.map_flags[~over].any()


def test_a_class_that_no_image_of_the_batch_has_costs_no_backward_pass() -> None:
    network, batch = with_activation("sigmoid"), images(2)
    reached = []
    network.module.get_submodule("blocks.0.0").register_full_backward_hook(lambda *_: reached.append(1))
    found = explain(network, OverThreshold(threshold=1.0), batch[:3])
    assert found.maps.isnan().all() and not reached


def test_a_difference_of_classes_is_the_difference_of_their_maps() -> None:
    network, batch = make("ResNet18", 2), images(2, count=3)
    explainers = (Saliency(), IntegratedGradients(steps=4), Occlusion(window=32, stride=32))
    found = explain(network, Difference(of="a", against="c"), batch, *explainers).maps[:, 0]
    each = explain(network, Classes(classes=("a", "c")), batch, *explainers).maps
    assert difference(found, each[:, 0] - each[:, 1]) < 1e-9
    only = explain(network, Difference(of="a", against="c"), batch, GradCAM()).maps[:, 0, 0]  # the closed form
    both = explain(network, Difference(of="a", against="c"), batch, GradCAM(), Saliency()).maps[:, 0, 0]
    assert difference(only, both) < 1e-9


def test_a_regressions_outputs_are_explained_as_they_are() -> None:
    network, batch = with_activation("identity"), images(2)
    found = explain(network, Classes(classes=("b",)), batch, Saliency(), RISE(samples=4))
    assert torch.equal(found.probability, found.logits)
    gradient = attr.Saliency(network.module).attribute(batch.clone(), target=1, abs=False)
    assert difference(found.maps[:, 0, 0], gradient[:, 0]) < 1e-9
    assert not found.image_flags.any()


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_region_is_that_of_the_image_as_it_is(dims: int, activation: Any) -> None:
    network = segmenter(dims, activation)
    batch = torch.randn(3, 1, *network.config.input_shape, dtype=torch.float64)
    target = Region(classes=("c", "b"))
    found = explain(network, target, batch, Saliency(), IntegratedGradients(steps=5))
    with torch.no_grad():
        logits = network.module(batch)
    region = logits.argmax(1) == 2 if activation == "softmax" else logits[:, 2] > 0
    assert region.flatten(1).any(1).all()

    def summed(inputs: Tensor) -> Tensor:
        times = len(inputs) // 3
        return (network.module(inputs)[:, 2] * region.repeat(times, *[1] * dims)).flatten(1).sum(1)

    assert difference(found.maps[:, 0, 0], attr.Saliency(summed).attribute(batch.clone(), abs=False)[:, 0]) < 1e-9
    path = attr.IntegratedGradients(summed).attribute(batch, n_steps=5)
    assert difference(found.maps[:, 0, 1], path[:, 0]) < 1e-6
    assert torch.allclose(found.logits, logits.flatten(2).mean(-1))


def test_the_region_can_be_the_mask_and_an_empty_one_is_no_target() -> None:
    network = segmenter()
    batch = torch.randn(2, 1, 32, 24, dtype=torch.float64)
    masks = torch.zeros(2, 32, 24, dtype=torch.bool)
    masks[0, 5:9, 3:20] = True
    found = explain(network, Region(classes=("d",), of="mask"), batch, masks=masks)
    inputs = batch[:1].clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network.module(inputs)[0, 3][masks[0]].sum(), inputs)
    assert difference(found.maps[0, 0, 0], gradient[0, 0]) < 1e-9
    assert found.target_class.tolist() == [[3], [-1]]
    assert found.maps[1].isnan().all()
    with pytest.raises(ValueError, match="the cohort has no masks"):
        explain(network, Region(classes=("d",), of="mask"), batch)


def test_the_layer_of_a_segmentation_networks_cam_is_its_bottleneck() -> None:
    network = segmenter()
    assert network.spatial_layers[-1] == "model"
    assert network.layer(None) == "model.1"


@pytest.mark.parametrize(
    ("target", "what"),
    [
        (Predicted(k=5), "target.k is 5, but the model has 4 classes"),
        (Classes(classes=("e",)), r"target names \['e'\]"),
        (Difference(of="a", against="z"), r"target names \['z'\]"),
        (OverThreshold(threshold={"a": 0.5}), r"target.threshold has \['a'\]"),
        (OverThreshold(threshold=50), "target.threshold is 50, and probabilities lie between 0 and 1"),
        (OverThreshold(threshold=dict.fromkeys("abcd", -0.5)), "target.threshold is -0.5"),
        (Classes(classes=("a", "b", "a")), "target names a class twice: a, b, a"),
        (Difference(of="a", against="a"), "target names a class twice: a, a"),
        (Region(classes=("a",)), "needs a model that returns a map for each class"),
    ],
)
def test_a_target_that_the_network_does_not_have_is_refused(target: Any, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Engine(make("AttentionGated", 2), [Saliency()], target)


def test_a_segmentation_network_is_explained_by_region_only() -> None:
    with pytest.raises(ValueError, match="use the target `region`"):
        Engine(segmenter(), [Saliency()], Predicted())


def test_of_several_outputs_the_first_counts() -> None:
    class Several(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(64 * 48, 4)

        def forward(self, x: Tensor) -> tuple[Tensor, list[Tensor]]:
            return self.head(x.flatten(1)), [x]

    network = wrap(Several())
    found = explain(network, Predicted(), images(2))
    assert torch.equal(found.logits, network.module(images(2))[0])


def test_the_network_decides_for_one_class_for_those_over_a_half_or_for_nothing() -> None:
    batch = images(2)
    every, ahead = Classes(classes=CLASSES), Difference(of="b", against="d")

    def decided(network: Network, target: Any) -> Tensor:
        asked = Engine(network, [], target, batch_size=2).batch(batch, names(batch))
        return torch.stack([answer.decided for answer in asked.answers], 1)

    softmax, sigmoid = make("AttentionGated", 2), with_activation("sigmoid")
    assert torch.equal(decided(softmax, every), nn.functional.one_hot(softmax(batch).argmax(1), 4).bool())
    assert torch.equal(decided(sigmoid, every), sigmoid(batch) > 0)
    assert (decided(sigmoid, every).sum(1) != 1).any()
    logits = softmax(batch)
    assert torch.equal(decided(softmax, ahead)[:, 0], logits[:, 1] > logits[:, 3])
    assert not decided(with_activation("identity"), every).any()


@pytest.mark.parametrize("activation", ["softmax", "sigmoid"])
def test_the_network_decides_for_a_region_by_most_of_its_places(activation: Any) -> None:
    network = segmenter(activation=activation)
    batch = torch.randn(3, 1, *network.config.input_shape, dtype=torch.float64)
    masks = torch.rand(3, *network.config.input_shape) < 0.4
    asked = Engine(network, [], Region(classes=CLASSES, of="mask")).batch(batch, names(batch), masks)
    found = torch.stack([answer.decided for answer in asked.answers], 1)
    logits = network(batch)
    for row in range(3):
        for index in range(4):
            wins = logits[row].argmax(0) == index if activation == "softmax" else logits[row, index] > 0
            assert bool(found[row, index]) == bool(wins[masks[row]].double().mean() > 0.5)


def test_what_is_explained_can_be_handed_over() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    engine = Engine(network, [Saliency()], Predicted(), batch_size=2)
    first = engine.batch(batch, names(batch))
    again = engine.batch(batch.flip(0), names(batch), chosen=first.chosen)
    assert not torch.equal(first.chosen.classes, first.chosen.classes.flip(0))
    assert torch.equal(again.chosen.classes, first.chosen.classes)
    expected = torch.autograd.grad(
        network(given := batch.flip(0).requires_grad_()).gather(1, first.chosen.classes).sum(), given
    )[0]
    assert difference(engine.maps(again)[:, 0, 0], expected[:, 0]) < 1e-9
