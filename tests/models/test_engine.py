"""The engine against Captum, run live on the same networks."""

from collections.abc import Generator
from typing import Literal

import pytest
import torch
from captum.attr import InputXGradient as CaptumInputXGradient
from captum.attr import LayerAttribution, LayerGradCam
from captum.attr import Saliency as CaptumSaliency
from torch import Tensor, nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.attention import Attention
from models.explainers.base import Explainer
from models.explainers.gradcam import GradCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.occlusion import Occlusion
from models.explainers.prediction import Prediction
from models.explainers.saliency import Saliency
from models.outputs import Computed
from models.questions import Answer, Batch, Questions
from models.targets import Classes, Predicted
from tests.models.networks import CLASSES, NETWORKS, SHAPES, difference, images, make, names, wrap


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_maps_equal_captums_in_batches_of_mixed_classes(name: str, dims: int) -> None:
    network = make(name, dims)
    batch = images(dims, count=2 if dims == 3 else 5)
    found = Engine(network, [Saliency(), InputXGradient(), GradCAM()], Classes(classes=CLASSES)).explain(
        batch, names(batch)
    )
    blank = 0
    for target in range(len(CLASSES)):
        saliency = CaptumSaliency(network.module).attribute(batch.clone().requires_grad_(), target=target, abs=False)
        times = CaptumInputXGradient(network.module).attribute(batch.clone().requires_grad_(), target=target)
        layer = network.module.get_submodule(network.layer(None))
        cam = LayerGradCam(network.module, layer).attribute(batch, target=target, relu_attributions=True)
        mode = "bilinear" if dims == 2 else "trilinear"
        cam = LayerAttribution.interpolate(cam, SHAPES[dims], interpolate_mode=mode)
        for row, expected in enumerate((saliency, times, cam)):
            if expected.any():
                assert difference(found.maps[:, target, row], expected[:, 0]) < 1e-5
            else:
                blank += 1
                assert not found.maps[:, target, row].any()
    assert blank < len(CLASSES)


def test_each_image_of_a_batch_is_explained_for_its_own_class() -> None:
    network = make("ResNet18", 2)
    batch = images(2, count=12)
    found = Engine(network, [Saliency()], Predicted()).explain(batch, names(batch))
    targets = found.target_class[:, 0]
    assert len(targets.unique()) > 1
    assert torch.equal(targets, found.logits.argmax(1))
    expected = CaptumSaliency(network.module).attribute(batch.clone().requires_grad_(), target=targets, abs=False)
    assert difference(found.maps[:, 0, 0], expected[:, 0]) < 1e-5


@pytest.mark.parametrize("name", NETWORKS)
def test_an_image_has_the_same_maps_alone_and_in_a_batch(name: str) -> None:
    network = make(name, 2)
    batch = images(2)
    engine = Engine(network, [Saliency(), InputXGradient(), GradCAM()], Predicted(k=2))
    together = engine.explain(batch, names(batch)).maps
    again = engine.explain(batch.flip(0), names(batch)[::-1]).maps.flip(0)
    alone = torch.cat([engine.explain(image[None], ("x",)).maps for image in batch])
    assert difference(alone, together) < 1e-9
    assert difference(again, together) < 1e-9


def test_colour_takes_the_strongest_channel_for_saliency_and_the_sum_for_input_x_gradient() -> None:
    network = make("ResNet18", 2, channels=3)
    batch = images(2, channels=3)
    found = Engine(network, [Saliency(), InputXGradient()], Classes(classes=("a",))).explain(batch, names(batch))
    gradient = CaptumSaliency(network.module).attribute(batch.clone().requires_grad_(), target=0, abs=False)
    strongest = torch.where(gradient.amax(1) > -gradient.amin(1), gradient.amax(1), gradient.amin(1))
    assert difference(found.maps[:, 0, 0], strongest) < 1e-9
    assert difference(found.maps[:, 0, 1], (gradient * batch).sum(1)) < 1e-9


def test_one_forward_pass_and_one_backward_pass_a_target_serve_all_explainers() -> None:
    network = make("AttentionGated", 2)
    calls = {"forward": 0, "backward": 0}
    network.module.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    first = network.module.get_submodule("blocks.0.0")
    first.register_full_backward_hook(lambda *_: calls.update(backward=calls["backward"] + 1))
    engine = Engine(network, [Prediction(), Saliency(), InputXGradient(), GradCAM(), Attention()], Predicted(k=3))
    calls.update(forward=0, backward=0)
    assert engine.explain(images(2), names(images(2))).maps.shape == (5, 3, 4, *SHAPES[2])
    assert calls == {"forward": 1, "backward": 3}
    assert (engine.forward_passes, engine.backward_passes) == (5, 15)


def test_gradcam_alone_stops_the_backward_pass_at_its_layer() -> None:
    network = make("ResNet18", 2)
    reached = []
    network.module.get_submodule("layer3").register_full_backward_hook(lambda *_: reached.append("layer3"))
    alone = Engine(network, [GradCAM()], Predicted()).explain(images(2), names(images(2))).maps[:, 0, 0]
    assert reached == []
    together = Engine(network, [Saliency(), GradCAM()], Predicted()).explain(images(2), names(images(2))).maps[:, 0, 1]
    assert reached == ["layer3"]
    assert difference(alone, together) < 1e-9


def test_prediction_alone_makes_no_map_and_no_gradient() -> None:
    network = make("ResNet18", 2)
    engine = Engine(network, [Prediction()], Predicted())
    found = engine.explain(images(2), names(images(2)))
    assert engine.backward_passes == 0
    assert found.maps.shape == (5, 1, 0, *SHAPES[2])
    assert torch.equal(found.logits, network.module(images(2)))
    assert torch.allclose(found.probability.sum(1), torch.ones(5).double())


class Brightness(Explainer):
    """Makes no map: the mean of the image, the scores when it is twice as bright, and a whole number."""

    name: Literal["brightness"] = "brightness"

    def produce(self, batch: Batch) -> Generator[Questions, None, Computed]:
        doubled = torch.zeros(len(batch.images), 2)

        def fold(answer: Answer) -> None:
            doubled[answer.image, answer.target] = answer.score.float()

        yield Questions(1, lambda image, _: 2 * batch.images[image], fold)
        number = torch.arange(len(batch.images), dtype=torch.int32) + 2**25
        return {"brightness": batch.images.flatten(1).mean(1), "doubled": doubled, "number": number}


def test_an_explainer_without_maps_has_its_outputs_beside_those_of_others() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    batch[3, 0, 0, 0] = torch.inf
    target = Classes(classes=("b", "d"))
    found = Engine(network, [Brightness(), Saliency()], target, batch_size=3).explain(batch, names(batch))
    whole = [0, 1, 2, 4]
    assert torch.equal(found.outputs["brightness"][whole], batch[whole].flatten(1).mean(1))
    expected = network.module(2 * batch[whole])[:, [1, 3]]
    assert difference(found.outputs["doubled"][whole].double(), expected) < 1e-6
    assert found.outputs["brightness"][3].isnan() and found.outputs["doubled"][3].isnan().all()
    assert torch.equal(found.outputs["number"], torch.arange(5, dtype=torch.int32) + 2**25)
    alone = Engine(network, [Saliency()], target).explain(batch, names(batch))
    assert found.maps.shape == (5, 2, 1, *SHAPES[2])
    assert difference(found.maps[whole], alone.maps[whole]) < 1e-9
    assert found.outputs.keys() - alone.outputs.keys() == {"brightness", "doubled", "number"}
    engine = Engine(network, [Brightness()], target)
    assert engine.maps(engine.batch(batch, names(batch))).shape == (5, 2, 0, *SHAPES[2])


def test_an_error_of_an_explainer_that_a_user_can_mend_names_it() -> None:
    network, batch = make("AttentionGated", 2), images(2)
    engine = Engine(network, [Saliency(), Occlusion(window=(9, 9, 9), label="small")], Predicted())
    with pytest.raises(ConfigurationError, match=r"^small: window \(9, 9, 9\) and stride \(8, 8\) must fit an image"):
        engine.explain(batch, names(batch))


def test_attention_is_the_mean_of_the_gates_coefficients_on_the_images_grid() -> None:
    network = make("AttentionGated", 2)
    gates: dict[str, Tensor] = {}
    for name in ("gates.0.coefficients", "gates.1.coefficients"):
        network.module.get_submodule(name).register_forward_hook(
            lambda _, __, out, name=name: gates.update({name: out})
        )
    found = Engine(network, [Attention()], Predicted()).explain(images(2), names(images(2))).maps[:, 0, 0]
    resized = [nn.functional.interpolate(gate, SHAPES[2], mode="bilinear") for gate in gates.values()]
    assert len(resized) == 2
    assert torch.allclose(found, (resized[0] + resized[1])[:, 0] / 2)
    assert found.min() >= 0
    assert found.max() <= 1


def test_the_network_is_afterwards_what_it_was_also_after_an_error() -> None:
    network = make("DenseNet121", 2)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    engine = Engine(network, [Saliency(), GradCAM()], Predicted())
    engine.explain(images(2), names(images(2)))
    with pytest.raises(RuntimeError):
        engine.explain(images(2, channels=2), names(images(2)))
    assert not any(part._forward_hooks or part._backward_hooks for part in network.module.modules())
    assert not any(part.training for part in network.module.modules())
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in network.module.parameters())
    assert all(torch.equal(before[name], value) for name, value in network.module.state_dict().items())


def test_a_layer_followed_by_an_in_place_relu_keeps_its_own_output() -> None:
    torch.manual_seed(0)
    conv, relu = nn.Conv2d(1, 6, 3), nn.ReLU(inplace=True)
    module = nn.Sequential(conv, relu, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))
    network = wrap(module)
    found = (
        Engine(network, [GradCAM(layer="0")], Classes(classes=("a",)))
        .explain(images(2), names(images(2)))
        .maps[:, 0, 0]
    )
    features = conv(images(2))
    gradient = (features > 0) * module[4].weight[0].view(1, 6, 1, 1) / features[0, 0].numel()
    cam = (gradient.mean((2, 3), keepdim=True) * features).sum(1, keepdim=True).relu()
    assert difference(found, nn.functional.interpolate(cam, SHAPES[2], mode="bilinear")[:, 0]) < 1e-9
