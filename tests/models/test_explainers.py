"""Every explainer against an oracle: Captum in double precision, an axiom, or the formula by hand."""

from typing import Any

import numpy as np
import pytest
import torch
from captum import attr
from monai.networks.nets import EfficientNetBN, ViT
from scipy import ndimage
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_centre import ControlCentre
from models.explainers.control_edges import ControlEdges
from models.explainers.control_random import ControlRandom
from models.explainers.deconvolution import Deconvolution
from models.explainers.eigencam import EigenCAM
from models.explainers.gradcam import GradCAM
from models.explainers.gradcam_plusplus import GradCAMPlusPlus
from models.explainers.guided_backprop import GuidedBackprop
from models.explainers.guided_gradcam import GuidedGradCAM
from models.explainers.hirescam import HiResCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.layercam import LayerCAM
from models.explainers.occlusion import Occlusion
from models.explainers.prediction import Prediction
from models.explainers.rise import RISE
from models.explainers.saliency import Saliency
from models.explainers.scorecam import ScoreCAM
from models.explainers.smoothgrad import SmoothGrad
from models.explainers.smoothgrad_squared import SmoothGradSquared
from models.explainers.vargrad import VarGrad
from models.explainers.xgradcam import XGradCAM
from models.flags import MapFlag
from models.network import Network
from models.questions import Answer
from models.targets import Classes, Predicted
from tests.models.networks import SHAPES, STANDARD, difference, images, make, names, wrap

B = Classes(classes=("b",))


def explain(network: Network, explainer: Any, batch: Tensor, target: Any = B, **options: Any) -> Tensor:
    """Maps ``(image, *space)`` for the first target."""
    return Engine(network, [explainer], target, **options).explain(batch, names(batch)).maps[:, 0, 0]


def linear(dims: int) -> tuple[Network, Tensor]:
    """A linear network, and its weights for class b."""
    torch.manual_seed(0)
    size = int(np.prod(SHAPES[dims]))
    module = nn.Sequential(nn.Flatten(), nn.Linear(size, 4))
    return wrap(module, dims), module[1].weight[1].double().view(SHAPES[dims])


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("name", ["ResNet18", "DenseNet121"])
def test_guided_rules_equal_captums(name: str, dims: int) -> None:
    network = make(name, dims)
    batch = images(dims, count=2)
    layer = network.module.get_submodule(network.layer(None))
    ours = {kind: explain(network, kind(), batch) for kind in (GuidedBackprop, Deconvolution, GuidedGradCAM)}
    for part in network.module.modules():  # Captum's hooks do not go together with in-place ReLUs
        if isinstance(part, nn.ReLU):
            part.inplace = False
    theirs = {
        GuidedBackprop: attr.GuidedBackprop(network.module).attribute(batch, target=1)[:, 0],
        Deconvolution: attr.Deconvolution(network.module).attribute(batch, target=1)[:, 0],
    }
    cam = explain(network, GradCAM(), batch)
    theirs[GuidedGradCAM] = theirs[GuidedBackprop] * cam
    assert layer is not None
    for kind, expected in theirs.items():
        assert difference(ours[kind], expected) < 1e-9, kind


@pytest.mark.parametrize(
    "explainer", [GuidedBackprop(), Deconvolution(), GuidedGradCAM(), SmoothGrad(of="guided_backprop")]
)
def test_guided_rules_are_refused_where_they_would_be_the_plain_gradient(explainer: Any) -> None:
    efficient = EfficientNetBN("efficientnet-b0", spatial_dims=2, in_channels=1, num_classes=4, pretrained=False)
    with pytest.raises(ValueError, match=r"EfficientNetBN has no ReLU.*Use integrated_gradients"):
        Engine(wrap(efficient), [explainer], B)


def test_guided_rules_reach_functional_in_place_and_reused_relus() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 3), nn.Linear(4, 4)
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x: Tensor) -> Tensor:
            x = nn.functional.relu(self.first(x), inplace=True)
            x = self.relu(self.second(x))
            return self.head(self.relu(x - 0.1).mean((2, 3)))

    class Modules(Functional):
        def __init__(self) -> None:
            super().__init__()
            self.relus = nn.ModuleList(nn.ReLU() for _ in range(3))

        def forward(self, x: Tensor) -> Tensor:
            x = self.relus[1](self.second(self.relus[0](self.first(x))))
            return self.head(self.relus[2](x - 0.1).mean((2, 3)))

    torch.manual_seed(0)
    functional = Functional()
    modules = Modules()
    modules.load_state_dict(functional.state_dict())
    ours = explain(wrap(functional), GuidedBackprop(), images(2))
    theirs = attr.GuidedBackprop(wrap(modules).module).attribute(images(2), target=1)[:, 0]
    assert difference(ours, theirs) < 1e-9
    plain = explain(wrap(functional), Saliency(), images(2))
    assert difference(ours, plain) > 0.1


def test_cams_follow_their_formulas() -> None:
    network = make("ResNet18", 2)
    batch = images(2)
    seen: list[Tensor] = []
    layer = network.module.get_submodule("layer4")

    def keep(_: Any, __: Any, output: Tensor) -> None:
        output.retain_grad()
        seen.append(output)

    handle = layer.register_forward_hook(keep)
    network.module(batch.clone().requires_grad_())[:, 1].sum().backward()
    handle.remove()
    features = seen[0].detach().numpy()
    gradients = seen[0].grad.numpy()

    def resized(cam: Any) -> Tensor:
        small = torch.as_tensor(np.maximum(cam, 0))[:, None]
        return nn.functional.interpolate(small, SHAPES[2], mode="bilinear")[:, 0]

    plusplus = np.zeros_like(features[:, 0])
    for image in range(len(batch)):  # by loops, since broadcasting over the width is the known mistake
        for k in range(features.shape[1]):
            a, g = features[image, k], gradients[image, k]
            denominator = 2 * g**2 + a.sum() * g**3
            alpha = np.divide(g**2, denominator, out=np.zeros_like(g), where=denominator != 0)
            plusplus[image] += (alpha * np.maximum(g, 0)).sum() * a
    sums = features.sum((2, 3), keepdims=True)
    share = np.divide(gradients * features, sums, out=np.zeros_like(features), where=sums != 0)
    expected = {
        GradCAMPlusPlus: plusplus,
        HiResCAM: (gradients * features).sum(1),
        LayerCAM: (np.maximum(gradients, 0) * features).sum(1),
        XGradCAM: (share.sum((2, 3), keepdims=True) * features).sum(1),
    }
    for kind, cam in expected.items():
        assert difference(explain(network, kind(), batch), resized(cam)) < 1e-9, kind

    projected = []
    for image in range(len(batch)):
        places = features[image].reshape(features.shape[1], -1).T
        values, vectors = np.linalg.eigh(places.T @ places)
        line = places @ vectors[:, values.argmax()]
        projected.append((line * np.sign(line.sum())).reshape(features.shape[2:]))
    assert difference(explain(network, EigenCAM(), batch), resized(np.stack(projected))) < 1e-6


def test_scorecam_weighs_features_by_the_probability_of_the_masked_image() -> None:
    network = make("AttentionGated", 2)
    batch = images(2, count=2)
    features: list[Tensor] = []
    handle = network.module.get_submodule("blocks.1").register_forward_hook(lambda _, __, out: features.append(out))
    network.module(batch)
    handle.remove()
    expected = []
    for image, activations in zip(batch, features[0], strict=True):
        scores = []
        for feature in activations:
            mask = nn.functional.interpolate(feature[None, None], SHAPES[2], mode="bilinear")[0, 0]
            mask = (mask - mask.min()) / (mask.max() - mask.min())
            scores.append(network.module((image * mask)[None]).softmax(1)[0, 1])
        cam = sum(w * a for w, a in zip(torch.stack(scores).softmax(0), activations, strict=True)).relu()
        expected.append(nn.functional.interpolate(cam[None, None], SHAPES[2], mode="bilinear")[0, 0])
    assert difference(explain(network, ScoreCAM(layer="blocks.1"), batch), torch.stack(expected)) < 1e-9


def test_gradcam_is_cam_on_a_pooled_linear_head() -> None:
    network = make("ResNet18", 2)
    features: list[Tensor] = []
    handle = network.module.get_submodule("layer4").register_forward_hook(lambda _, __, out: features.append(out))
    network.module(images(2))
    handle.remove()
    places = features[0][0, 0].numel()
    cam = torch.einsum("k,ik...->i...", network.module.fc.weight[1], features[0]).relu() / places
    expected = nn.functional.interpolate(cam[:, None], SHAPES[2], mode="bilinear")[:, 0]
    for kind in (GradCAM, HiResCAM):
        assert difference(explain(network, kind(), images(2)), expected) < 1e-9


@pytest.mark.parametrize("dims", [2, 3])
def test_integrated_gradients_equal_captums_for_any_number_of_images(dims: int) -> None:
    network = make("AttentionGated", dims)
    steps = 20 if dims == 2 else 5
    for count in (1, 3):
        batch = images(dims, count=count)
        ours = explain(network, IntegratedGradients(steps=steps, baseline=0.3), batch, batch_size=4)
        theirs = attr.IntegratedGradients(network.module).attribute(batch, 0.3, target=1, n_steps=steps)
        assert difference(ours, theirs[:, 0]) < 1e-6  # Captum's nodes are in single precision


@pytest.mark.parametrize("dims", [2, 3])
def test_on_a_linear_network_the_axioms_hold_exactly(dims: int) -> None:
    network, weights = linear(dims)
    batch = images(dims)
    expected = weights * (batch[:, 0] - 0.3)
    for steps in (1, 5):
        assert difference(explain(network, IntegratedGradients(steps=steps, baseline=0.3), batch), expected) < 1e-9
    assert difference(explain(network, SmoothGrad(samples=3), batch), weights.expand(expected.shape)) < 1e-9
    assert explain(network, VarGrad(samples=3), batch).abs().max() < 1e-9
    window = 4
    tiles = explain(network, Occlusion(window=window, stride=window), batch)
    sums = nn.functional.unfold if dims == 2 else None
    assert sums is None or sums(batch, window).ndim == 3
    for corner in ((0,) * dims, (window,) * dims, (8, 12, 4)[:dims]):
        tile = (slice(None), *(slice(start, start + window) for start in corner))
        inside = (weights * batch[:, 0])[tile].flatten(1).sum(1)
        assert torch.allclose(tiles[tile].flatten(1), inside[:, None].expand(-1, window**dims))


def test_adaptive_integrated_gradients_are_complete_to_the_tolerance() -> None:
    network = make("ResNet18", 2)
    batch = images(2, count=3)
    engine = Engine(network, [IntegratedGradients(steps=128, tolerance=0.02)], Predicted())
    found = engine.explain(batch, names(batch))
    rows = torch.arange(len(batch))
    target = found.target_class[:, 0]
    difference_of_logits = (found.logits - network.module(torch.zeros_like(batch)))[rows, target]
    maps = found.maps[:, 0, 0].flatten(1)
    assert ((maps.sum(1) - difference_of_logits).abs() <= 0.02 * maps.abs().sum(1)).all() and not found.map_flags.any()
    few = Engine(network, [IntegratedGradients(steps=2, tolerance=0.02)], Predicted()).explain(batch, names(batch))
    assert (few.map_flags == MapFlag.INEXACT.value).all()


def test_noise_explainers_are_moments_of_the_gradients_at_noisy_copies() -> None:
    network = make("AttentionGated", 2)
    batch = images(2, count=2)
    copies: list[Tensor] = []
    handle = network.module.register_forward_hook(lambda _, inputs, __: copies.append(inputs[0].detach()))
    explainers = [SmoothGrad(samples=6), SmoothGradSquared(samples=6), VarGrad(samples=6)]
    engine = Engine(network, explainers, B, batch_size=4)
    copies.clear()
    maps = engine.explain(batch, names(batch)).maps[:, 0]
    handle.remove()
    noisy = torch.cat(copies)[2:]  # the plain question comes first
    assert len(noisy) == 12  # shared by all three
    gradients = attr.Saliency(network.module).attribute(noisy.clone().requires_grad_(), target=1, abs=False)
    gradients = gradients.view(2, 6, *SHAPES[2])
    assert difference(maps[:, 0], gradients.mean(1)) < 1e-9
    assert difference(maps[:, 1], gradients.square().mean(1)) < 1e-9
    assert difference(maps[:, 2], gradients.var(1, correction=0)) < 1e-6
    noise = (noisy.view(2, 6, *SHAPES[2]) - batch) / (batch.amax((2, 3)) - batch.amin((2, 3)))[..., None, None]
    assert abs(float(noise.std()) - 0.15) < 0.005
    assert abs(float(noise.mean())) < 0.005


@pytest.mark.parametrize("of", ["guided_backprop", "deconvolution", "input_x_gradient"])
def test_smoothing_goes_around_any_gradient_explainer(of: Any) -> None:
    network, batch = make("AttentionGated", 2), images(2, count=2)
    copies: list[Tensor] = []
    engine = Engine(network, [SmoothGrad(samples=3, of=of)], B, batch_size=4)
    handle = network.module.register_forward_hook(lambda _, inputs, __: copies.append(inputs[0].detach()))
    found = engine.explain(batch, names(batch)).maps[:, 0, 0]
    handle.remove()
    noisy = torch.cat(copies)[2:]
    kinds = {"guided_backprop": GuidedBackprop, "deconvolution": Deconvolution, "input_x_gradient": InputXGradient}
    each = explain(network, kinds[of](), noisy).view(2, 3, *SHAPES[2])
    assert difference(found, each.mean(1)) < 1e-9


@pytest.mark.parametrize(
    ("dims", "window", "stride"),
    [(2, (16, 12), (8, 6)), (2, (10, 10), (7, 9)), (2, (64, 48), (1, 1)), (3, (16, 18, 16), (8, 9, 8))],
)
def test_occlusion_equals_captums_with_ragged_edges(
    dims: int, window: tuple[int, ...], stride: tuple[int, ...]
) -> None:
    network = make("AttentionGated", dims)
    batch = images(dims, count=2)
    ours = explain(network, Occlusion(window=window, stride=stride, fill=0.25), batch, batch_size=9)
    theirs = attr.Occlusion(network.module).attribute(
        batch, (1, *window), (1, *stride), 0.25, target=1, perturbations_per_eval=8
    )
    assert difference(ours, theirs[:, 0]) < 1e-6  # Captum adds up in single precision


def test_occlusion_can_be_filled_with_the_mean_or_the_image_blurred() -> None:
    network, weights = linear(2)
    batch = images(2)
    for fill in ("mean", "blur"):
        sigma = 64 / 16
        filled = (
            batch.mean((2, 3), keepdim=True).expand_as(batch)[:, 0].numpy()
            if fill == "mean"
            else ndimage.gaussian_filter(batch[:, 0].numpy(), sigma, axes=(1, 2), mode="nearest", radius=12)
        )
        whole = explain(network, Occlusion(window=(64, 48), stride=64, fill=fill), batch)
        expected = (weights * (batch[:, 0] - torch.as_tensor(filled))).flatten(1).sum(1)
        assert torch.allclose(whole[:, 5, 5], expected)


def test_rise_weighs_its_masks_by_the_probability() -> None:
    network = make("AttentionGated", 2)
    batch = images(2, count=2)
    given: list[Tensor] = []
    handle = network.module.register_forward_hook(lambda _, inputs, __: given.append(inputs[0].detach()))
    engine = Engine(network, [RISE(samples=30, cells=5, keep=0.4)], B, batch_size=8)
    given.clear()
    found = engine.explain(batch, names(batch)).maps[:, 0, 0]
    handle.remove()
    masked = torch.cat(given)[2:].view(2, 30, *SHAPES[2])
    masks = masked / batch
    assert masks.min() > -1e-9
    assert masks.max() < 1 + 1e-9
    assert abs(float(masks.mean()) - 0.4) < 0.05
    probability = network.module(masked.flatten(0, 1)[:, None]).softmax(1)[:, 1].view(2, 30)
    for row in range(2):
        together = np.cov(probability[row].numpy(), masks[row].flatten(1).numpy(), rowvar=False)
        expected = probability[row].mean() + torch.as_tensor(together[0, 1:]).view(SHAPES[2]) / 0.4
        assert difference(found[row], expected) < 1e-6


def test_rise_of_a_constant_answer_is_that_answer() -> None:
    network, batch = linear(2)[0], images(2, count=2)
    found = explain(network, RISE(samples=20), torch.zeros_like(batch))
    expected = network(torch.zeros_like(batch)).softmax(1)[:, 1].view(2, 1, 1).expand_as(found)
    assert difference(found, expected) < 1e-6


def test_rise_asks_until_the_standard_error_is_within_the_tolerance() -> None:
    network, batch = make("AttentionGated", 2), images(2, count=2)

    def run(
        samples: int, tolerance: float | None, ids: tuple[str, ...] = names(batch)
    ) -> tuple[Tensor, list[int], int]:
        engine = Engine(network, [RISE(samples=samples, tolerance=tolerance)], B)
        found = engine.explain(batch, ids)
        return found.maps[:, 0, 0], found.map_flags[:, 0, 0].tolist(), engine.forward_passes

    maps, flags, passes = run(160, 1e-6)
    assert flags == [MapFlag.INEXACT] * 2 and passes == 2 + 2 * 160
    assert difference(maps, run(160, None)[0]) < 1e-9
    said = torch.stack([run(40, None, (f"a{draw}", f"b{draw}"))[0] for draw in range(12)])
    true = (said.std(0).flatten(1).norm(dim=1) / said.mean(0).flatten(1).norm(dim=1)).max()
    assert run(40, 1.3 * float(true))[1] == [0, 0]
    assert MapFlag.INEXACT in run(40, 0.7 * float(true))[1]
    assert run(160, 1.3 * float(true))[2] < 2 + 2 * 80


@pytest.mark.parametrize("dims", [2, 3])
def test_controls_know_nothing_of_the_model(dims: int) -> None:
    batch = images(dims)
    one, other = make("AttentionGated", dims), linear(dims)[0]
    for control in (ControlRandom(), ControlEdges(), ControlCentre()):
        assert torch.equal(explain(one, control, batch), explain(other, control, batch))
    volume = batch[:, 0].numpy()
    axes = range(1, dims + 1)
    sobel = np.sqrt(sum(_sobel(volume, axis, axes) ** 2 for axis in axes))
    assert difference(explain(one, ControlEdges(), batch), torch.as_tensor(sobel)) < 1e-9
    noise = explain(one, ControlRandom(), batch)
    assert abs(float(noise.std()) - 1) < 0.05
    assert difference(noise[0], noise[1]) > 1
    centre = explain(one, ControlCentre(), batch)[0]
    assert torch.allclose(centre, centre.flip(tuple(range(dims))))
    edge = centre[0][tuple(size // 2 for size in SHAPES[dims][1:])]
    assert 0.1 < float(edge) < 0.2  # two standard deviations from the centre


def _sobel(volume: Any, axis: int, axes: Any) -> Any:
    for other in axes:
        weights = [-1, 0, 1] if other == axis else [1, 2, 1]
        volume = ndimage.correlate1d(volume, weights, other, mode="nearest")
    return volume


ALL: tuple[Any, ...] = (
    Saliency(),
    GuidedBackprop(),
    Deconvolution(),
    GradCAM(),
    GradCAMPlusPlus(),
    HiResCAM(),
    LayerCAM(),
    XGradCAM(),
    EigenCAM(),
    ScoreCAM(layer="blocks.1"),
    GuidedGradCAM(),
    IntegratedGradients(steps=5),
    IntegratedGradients(steps=32, tolerance=0.02),
    SmoothGrad(samples=4),
    SmoothGradSquared(samples=4),
    VarGrad(samples=4),
    Occlusion(window=20, stride=14),
    Occlusion(window=16, stride=7, tolerance=0.1),
    RISE(samples=10),
    ControlRandom(),
    ControlEdges(),
    ControlCentre(),
)


@pytest.mark.parametrize("explainer", ALL, ids=lambda explainer: explainer.name)
def test_a_map_depends_on_the_image_alone(explainer: Any) -> None:
    network = make("AttentionGated", 2)
    batch = images(2)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    engine = Engine(network, [explainer], Predicted(k=2), batch_size=32)
    maps = engine.explain(batch, names(batch)).maps
    assert torch.isfinite(maps).all()
    assert maps.abs().amax() > 0
    small = Engine(network, [explainer], Predicted(k=2), batch_size=1)
    reverse = [4, 3, 2, 1, 0]
    others = {
        "again": engine.explain(batch, names(batch)).maps,
        "one by one": torch.cat([engine.explain(batch[[i]], (names(batch)[i],)).maps for i in range(5)]),
        "in batches of one": small.explain(batch, names(batch)).maps,
        "in another order": engine.explain(batch[reverse], names(batch)[::-1]).maps[reverse],
        "after another": Engine(network, [IntegratedGradients(steps=3), explainer], Predicted(k=2))
        .explain(batch, names(batch))
        .maps[:, :, 1:]
        if explainer.name != "integrated_gradients"
        else maps,
    }
    for how, other in others.items():
        assert difference(other, maps) < 1e-6, how
    assert all(torch.equal(before[name], value) for name, value in network.module.state_dict().items())
    assert not any(part._forward_hooks or part.training for part in network.module.modules())


def test_every_explainer_of_the_list_is_tested_here() -> None:
    tested = {explainer.name for explainer in ALL}
    in_other_files = {
        *("prediction", "input_x_gradient", "attention"),  # test_engine.py
        *("embedding", "pooled_activations"),  # test_embedding.py, test_concepts.py
        *("feature_ablation", "kernel_shap", "lime", "shapley_sampling", "ablationcam"),  # test_perturbation.py
        *("lrp", "deep_taylor", "pattern_attribution"),  # test_relevance.py
        "attn_lrp",  # test_attn_lrp.py
        "patternnet",  # test_patternnet.py
        "expressive_gradients",  # test_expressive_gradients.py
        *("deeplift", "deepshap", "expected_gradients"),  # test_deeplift.py
        *("attention_rollout", "gradient_rollout", "mil_attention", "cam"),  # test_attention.py
        *("prototype_activation", "bcos"),  # test_network_prototypes.py, test_bcos.py
    }
    assert STANDARD.keys() - tested == in_other_files


def test_explainers_work_on_a_network_without_spatial_convolutions() -> None:
    torch.manual_seed(0)
    vit = ViT(1, SHAPES[2], (16, 16), hidden_size=24, mlp_dim=32, num_layers=2, num_heads=3, classification=True,
              num_classes=4, spatial_dims=2, post_activation="none")  # fmt: skip

    class Logits(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.vit = vit

        def forward(self, x: Tensor) -> Tensor:
            return self.vit(x)[0]

    network = wrap(Logits())
    explainers = [Saliency(), IntegratedGradients(steps=4), Occlusion(), Prediction()]
    maps = Engine(network, explainers, B).explain(images(2), names(images(2))).maps
    assert maps.shape == (5, 1, 3, *SHAPES[2])
    theirs = attr.IntegratedGradients(network.module).attribute(images(2), target=1, n_steps=4)
    assert difference(maps[:, 0, 1], theirs[:, 0]) < 1e-6


def test_memory_that_does_not_suffice_halves_the_batch_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    network = make("AttentionGated", 2)
    batch = images(2)
    explainers = [Saliency(), GradCAM(), IntegratedGradients(steps=5), Occlusion(window=20, stride=14)]
    expected = Engine(network, explainers, Predicted(k=2)).explain(batch, names(batch)).maps
    engine = Engine(network, explainers, Predicted(k=2), batch_size=16)
    forward, sizes = network.module.forward, []

    def small_memory(inputs: Tensor) -> Tensor:
        if len(inputs) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        sizes.append(len(inputs))
        return forward(inputs)

    monkeypatch.setattr(network.module, "forward", small_memory)
    found = engine.explain(batch, names(batch)).maps
    assert (engine.batch_size, engine.halvings) == (2, 3)
    assert max(sizes) == 2
    assert difference(found, expected) < 1e-9
    monkeypatch.setattr(network.module, "forward", lambda inputs: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(torch.OutOfMemoryError):
        engine.explain(batch, names(batch))


def test_no_answer_is_counted_twice_where_memory_does_not_suffice_to_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(make("AttentionGated", 2), [IntegratedGradients(steps=5)], Predicted(k=2))
    batch, folded, rows = images(2), [], Answer.rows

    def small_memory(answer: Answer, own: slice) -> Answer:
        folded.append(answer.target)
        if answer.target == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return rows(answer, own)

    monkeypatch.setattr(Answer, "rows", small_memory)
    with pytest.raises(torch.OutOfMemoryError):
        engine.explain(batch, names(batch))
    assert folded == [0, 1]


def test_the_target_is_each_images_own_for_every_question() -> None:
    network = make("ResNet18", 2)
    batch = images(2, count=8)
    found = Engine(network, [IntegratedGradients(steps=4)], Predicted()).explain(batch, names(batch))
    assert len(found.target_class.unique()) > 1
    theirs = attr.IntegratedGradients(network.module).attribute(batch, target=found.target_class[:, 0], n_steps=4)
    assert difference(found.maps[:, 0, 0], theirs[:, 0]) < 1e-6
