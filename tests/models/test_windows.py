"""Images that are larger than the network's input, against MONAI's inferer and torch's gradients through the whole."""

from typing import Any

import pytest
import torch
from monai.data.utils import compute_importance_map, dense_patch_slices
from monai.inferers import SlidingWindowInferer
from monai.networks.nets import ViT
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.explainers.base import MapExplainer
from models.explainers.gradcam import GradCAM
from models.explainers.integrated_gradients import IntegratedGradients
from models.explainers.looking import LookingExplainer
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.metrics import evaluate
from models.metrics.completeness import CompletenessGap
from models.metrics.deletion import Deletion
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier, BcosClassifier, PrototypeClassifier
from models.networks.bag_of_slices import BagOfSlices
from models.records import RecordField
from models.targets import Classes, Difference, Predicted, Region, Target
from models.windows import Tiles, Top, Windows
from tests.models.networks import STANDARD, difference, few, names

WINDOW = {2: (16, 12), 3: (8, 8, 6)}
IMAGE = {2: (37, 30), 3: (13, 8, 11)}
CLASSES = ("a", "b", "c")
KINDS = [name for name, kind in STANDARD.items() if issubclass(kind, MapExplainer)]
FEATURES = {"scorecam", "ablationcam", "expressive_gradients", "patternnet", "prototype_activation"}


def segmenting(dims: int) -> nn.Module:
    conv, norm = (nn.Conv2d, nn.InstanceNorm2d) if dims == 2 else (nn.Conv3d, nn.InstanceNorm3d)
    torch.manual_seed(0)
    return nn.Sequential(
        conv(1, 4, 3, padding=1), norm(4), nn.ReLU(), conv(4, 5, 2, stride=2), nn.ReLU(),
        nn.Upsample(scale_factor=2, mode="bilinear" if dims == 2 else "trilinear"), conv(5, 3, 3, padding=1),
    )  # fmt: skip


def classifying(dims: int) -> nn.Module:
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d)
    torch.manual_seed(0)
    return nn.Sequential(
        conv(1, 4, 3, padding=1), nn.ReLU(), conv(4, 6, 2, stride=2), nn.ReLU(), pool(1), nn.Flatten(), nn.Linear(6, 3)
    )  # fmt: skip


def network_of(module: nn.Module, shape: tuple[int, ...], windows: Windows | None = None) -> Network:
    return Network(module.double(), NetworkConfig(classes=CLASSES, input_shape=shape, windows=windows))


def windowed(module: nn.Module, dims: int, **how: Any) -> Network:
    return network_of(module, WINDOW[dims], Windows(**{"image_shape": IMAGE[dims], **how}))


def images(dims: int, count: int = 2, shape: tuple[int, ...] | None = None) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(count, 1, *(shape or IMAGE[dims]), dtype=torch.float64, generator=generator)


def masks(dims: int, count: int = 2) -> Tensor:
    return torch.rand(count, *IMAGE[dims], generator=torch.Generator().manual_seed(2)) > 0.5


class Whole(nn.Module):
    """The network as a function of the whole image, by MONAI's inferer or its windows."""

    def __init__(self, module: nn.Module, dims: int, pool: Any = "mean", overlap: float = 0.25, mode: str = "constant"):
        super().__init__()
        self.module, self.window, self.pool, self.overlap = module, WINDOW[dims], pool, overlap
        self.inferer = SlidingWindowInferer(WINDOW[dims], 3, overlap, mode)

    def forward(self, x: Tensor) -> Tensor:
        if self.pool is None:
            return self.inferer(x, self.module)
        steps = [max(int(side * (1 - self.overlap)), 1) for side in self.window]
        places = dense_patch_slices(x.shape[2:], self.window, steps)
        logits = torch.stack([self.module(x[(..., *place)]) for place in places])
        if self.pool == "mean":
            return logits.mean(0)
        return logits.amax(0) if self.pool == "max" else logits.sort(0).values[-self.pool.top :].mean(0)


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize(
    ("image", "window", "overlap"),
    [
        ((37, 30), (16, 12), 0.25),
        ((37, 30), (16, 12), (0.5, 0.0)),
        ((16, 30), (16, 12), 0.9),
        ((9, 30), (16, 12), 0.5),  # larger than the image along one axis
        ((13, 8, 11), (8, 8, 6), 0.625),
        ((40, 41, 42), (7, 6, 9), 0.3),
    ],
)
def test_places_and_weights_are_monais(image: Any, window: Any, overlap: Any, weights: Any) -> None:
    tiles = Tiles(Windows(image_shape=image, overlap=overlap, weights=weights), window)
    each = overlap if isinstance(overlap, tuple) else (overlap,) * len(window)
    padded = tuple(map(max, image, window))
    steps = [
        own if own == side else max(int(own * (1 - one)), 1)
        for own, side, one in zip(window, padded, each, strict=True)
    ]
    assert tiles.places == dense_patch_slices(padded, window, steps)
    assert torch.allclose(tiles.windows.importance(window), compute_importance_map(window, weights), rtol=1e-6)


@pytest.mark.parametrize("batch_size", [3, 200])
@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5])
@pytest.mark.parametrize("dims", [2, 3])
def test_logits_and_gradients_equal_monais_inferer_and_autograd(
    dims: int, overlap: float, weights: Any, batch_size: int
) -> None:
    module, batch, inside = segmenting(dims), images(dims), masks(dims)
    network = windowed(module, dims, overlap=overlap, weights=weights)
    for target, region in _regions(module, dims, overlap, weights, batch, inside):
        found = Engine(network, [Saliency()], target, batch_size).explain(batch, names(batch), inside)
        pixels = batch.clone().requires_grad_()
        logits = SlidingWindowInferer(WINDOW[dims], 4, overlap, weights)(pixels, network.module)
        (gradient,) = torch.autograd.grad((logits[:, CLASSES.index(target.classes[0])] * region).sum(), pixels)
        assert difference(found.logits, logits.flatten(2).mean(-1)) < 1e-10
        assert difference(found.maps[:, 0, 0], gradient[:, 0]) < 1e-10


def _regions(module: nn.Module, dims: int, overlap: float, weights: str, batch: Tensor, inside: Tensor) -> Any:
    with torch.no_grad():
        predicted = SlidingWindowInferer(WINDOW[dims], 4, overlap, weights)(batch, module.double()).argmax(1)
    most = int(predicted.flatten().mode().values)
    yield Region(classes=("b",), of="mask"), inside
    yield Region(classes=(CLASSES[most],)), predicted == most


@pytest.mark.parametrize("shape", [(9, 30), (9, 7)])
def test_a_window_that_is_larger_than_the_image_is_padded_as_monai_does(shape: tuple[int, int]) -> None:
    module, batch = segmenting(2), images(2, shape=shape)
    inside = torch.ones(2, *shape, dtype=torch.bool)
    network = network_of(module, WINDOW[2], Windows(image_shape=shape))
    explainers = [Saliency(), GradCAM(), Occlusion(window=4, stride=3)]
    found = Engine(network, explainers, Region(classes=("b",), of="mask"), 2).explain(batch, names(batch), inside)
    pixels = batch.clone().requires_grad_()
    logits = SlidingWindowInferer(WINDOW[2], 4, 0.25)(pixels, module)
    (gradient,) = torch.autograd.grad(logits[:, 1].sum(), pixels)
    assert difference(found.logits, logits.flatten(2).mean(-1)) < 1e-10
    assert difference(found.maps[:, 0, 0], gradient[:, 0]) < 1e-10
    whole = network_of(Whole(module, 2, None), shape)
    plain = Engine(whole, [explainers[2]], Region(classes=("b",), of="mask")).explain(batch, names(batch), inside)
    assert difference(found.maps[:, :, 2:], plain.maps) < 1e-10


@pytest.mark.parametrize("batch_size", [2, 100])
@pytest.mark.parametrize("target", [Predicted(k=2), Classes(classes=("b", "c")), Difference(of="a", against="c")])
@pytest.mark.parametrize("pool", ["mean", "max", Top(top=3)])
def test_pooled_classes_equal_autograd_through_all_windows(pool: Any, target: Target, batch_size: int) -> None:
    module, batch = classifying(2), images(2, count=3)
    found = Engine(windowed(module, 2, pool=pool), [Saliency()], target, batch_size).explain(batch, names(batch))
    expected = Engine(network_of(Whole(module, 2, pool), IMAGE[2]), [Saliency()], target).explain(batch, names(batch))
    assert torch.equal(found.target_class, expected.target_class)
    assert difference(found.logits, expected.logits) < 1e-10
    assert difference(found.maps, expected.maps) < 1e-10


OF_PIXELS = [
    kind for kind in KINDS if not issubclass(EXPLAINERS.kinds[kind], LookingExplainer) and kind not in FEATURES
]


@pytest.mark.parametrize("kind", OF_PIXELS)
@pytest.mark.parametrize("segments", [True, False])
def test_every_map_of_pixels_is_that_of_the_function_of_the_whole_image(kind: str, segments: bool) -> None:
    module, batch = (segmenting(2) if segments else classifying(2)), images(2)
    target = Region(classes=("b",)) if segments else Classes(classes=("b",))
    explainer, fitted = few(kind), {"background": images(2, count=3).flip(-1)[1:]}
    try:
        whole = Engine(network_of(Whole(module, 2, None if segments else "mean"), IMAGE[2]), [explainer], target,
                       fitted=fitted)  # fmt: skip
    except ConfigurationError:
        pytest.skip("rules see no way through the windows of a module that takes them itself")
    found = Engine(windowed(module, 2), [explainer], target, 4, fitted).explain(batch, names(batch))
    expected = whole.explain(batch, names(batch))
    assert difference(found.maps, expected.maps) < 1e-7


@pytest.mark.parametrize("kind", KINDS)
def test_one_window_has_the_plain_map(kind: str) -> None:
    explainer, tried = few(kind), 0
    for module, shape in _networks(kind):
        plain, batch = network_of(module, shape), images(len(shape), shape=shape)
        target: Target = Region(classes=("b",)) if plain.segments else Classes(classes=("b",))
        fitted = {"background": batch.flip(-1)[:1]}
        try:
            expected = Engine(plain, [explainer], target, fitted=fitted).explain(batch, names(batch))
        except ConfigurationError:
            continue
        tried += 1
        network = network_of(module, shape, Windows(image_shape=shape, weights="gaussian"))
        if kind in FEATURES:
            with pytest.raises(ConfigurationError, match=f"{kind}: .* with model.windows each window has its own"):
                Engine(network, [explainer], target)
            continue
        found = Engine(network, [explainer], target, 1, fitted).explain(batch, names(batch))
        assert torch.allclose(found.maps, expected.maps, rtol=1e-7, atol=1e-9 * float(expected.maps.abs().max()))
        assert torch.equal(found.map_flags, expected.map_flags)
    assert tried


@pytest.mark.parametrize("kind", ["embedding", "pooled_activations"])
def test_a_vector_of_a_whole_image_is_refused_without_naming_a_map_instead(kind: str) -> None:
    with pytest.raises(
        ConfigurationError, match=f"^{kind}: asks .* each window has its own: leave it out, or take"
    ) as e:
        Engine(windowed(classifying(2), 2), [few(kind)], Classes(classes=("b",)))
    assert "cam" not in str(e.value)


def _networks(kind: str) -> Any:
    torch.manual_seed(0)
    if kind == "attention":
        yield AttentionGatedClassifier(2, 1, 3), (32, 24)
    elif kind in ("attention_rollout", "gradient_rollout", "attn_lrp"):
        yield ViT(1, (16, 16), 8, hidden_size=12, mlp_dim=8, num_layers=2, num_heads=2, classification=True,
                  num_classes=3, spatial_dims=2, post_activation="none"), (16, 16)  # fmt: skip
    elif kind == "mil_attention":
        yield BagOfSlices(1, 3), (4, 24, 24)
    elif kind == "prototype_activation":
        yield PrototypeClassifier(2, 1, 3), (32, 24)
    elif kind == "bcos":
        yield BcosClassifier(2, 1, 3), (32, 24)
    else:
        yield classifying(2), WINDOW[2]
        yield segmenting(2), WINDOW[2]


@pytest.mark.parametrize("weights", ["constant", "gaussian"])
@pytest.mark.parametrize("dims", [2, 3])
def test_layer_maps_are_those_of_windows_stitched_by_their_weights(dims: int, weights: Any) -> None:
    module, batch, inside = segmenting(dims).double(), images(dims), masks(dims)
    network = windowed(module, dims, weights=weights)
    found = Engine(network, [GradCAM(layer="3")], Region(classes=("b",), of="mask"), 4).explain(
        batch, names(batch), inside
    )
    layers: list[Tensor] = []
    handle = module[3].register_forward_hook(lambda _, __, output: layers.append(output))
    inferer = SlidingWindowInferer(WINDOW[dims], 4, 0.25, weights)
    logits = inferer(batch.clone().requires_grad_(), module)
    handle.remove()
    gradients = torch.autograd.grad((logits[:, 1] * inside).sum(), layers)
    cams = []
    for features, gradient in zip(layers, gradients, strict=True):
        weight = gradient.flatten(2).mean(-1)
        cam = torch.einsum("if,if...->i...", weight, features)[:, None].relu()
        cams.append(functional.interpolate(cam, WINDOW[dims], mode="bilinear" if dims == 2 else "trilinear"))
    expected = inferer(batch, lambda _: cams.pop(0).detach())
    assert difference(found.maps[:, 0, 0], expected[:, 0]) < 1e-10


def test_a_network_without_padding_has_the_whole_images_gradient_inside() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1))
    batch, inside = images(2, shape=(32, 32)), torch.zeros(2, 32, 32, dtype=torch.bool)
    inside[:, 10:14, 10:14] = True  # covered by windows whose edges it is far enough from, as are all it is seen by
    target = Region(classes=("b",), of="mask")
    whole = Engine(network_of(module, (32, 32)), [Saliency(), GradCAM(layer="0")], target)
    network = network_of(module, (24, 24), Windows(image_shape=(32, 32), overlap=2 / 3))
    found = Engine(network, [Saliency()], target, 2).explain(batch, names(batch), inside).maps[:, 0, 0]
    expected = whole.explain(batch, names(batch), inside).maps[:, 0, 0]
    assert difference(found[:, 4:20, 4:20], expected[:, 4:20, 4:20]) < 1e-10


def test_a_map_depends_neither_on_the_batch_nor_on_its_order() -> None:
    batch, engines = images(2, count=3), []
    for size in (1, 5, 40):
        network = windowed(classifying(2), 2, pool="max")
        engines.append(Engine(network, [few("smoothgrad"), GradCAM(), few("occlusion")], Predicted(k=2), size))
    first, *others = (engine.explain(batch, names(batch)).maps for engine in engines)
    assert all(difference(other, first) < 1e-10 for other in others)
    again = engines[1].explain(batch.flip(0), names(batch)[::-1]).maps.flip(0)
    assert difference(again, first) < 1e-10


@pytest.mark.parametrize("segments", [True, False])
def test_occlusion_asks_only_about_windows_that_it_touches(segments: bool) -> None:
    module, batch = (segmenting(2) if segments else classifying(2)), images(2, count=1)
    network = windowed(module, 2, overlap=0.5)
    target = Region(classes=("b",)) if segments else Classes(classes=("b",))
    engine = Engine(network, [Occlusion(window=8, stride=8)], target, 4)
    engine.explain(batch, names(batch))
    hidden = [(slice(y, y + 8), slice(x, x + 8)) for y in range(0, 37, 8) for x in range(0, 30, 8)]
    touched = sum(_overlap(place, own) for place in network.tiles.places for own in hidden)
    assert touched < len(hidden) * network.tiles.count / 2
    assert engine.forward_passes == network.tiles.count * (1 + segments) + touched
    assert engine.backward_passes == 0


def _overlap(place: tuple[slice, ...], other: tuple[slice, ...]) -> bool:
    return all(one.start < two.stop and two.start < one.stop for one, two in zip(place, other, strict=True))


@pytest.mark.parametrize(
    ("pool", "target", "asked", "gradients"),
    [
        ("mean", Classes(classes=("b",)), 1, 9),  # known beforehand
        ("mean", Predicted(), 2, 9),
        ("max", Classes(classes=("b",)), 1 + 1 / 9, 1),  # the one window that counts
        (Top(top=2), Predicted(), 1 + 2 / 9, 2),
    ],
)
def test_windows_are_asked_twice_only_where_their_part_is_not_known(
    pool: Any, target: Target, asked: float, gradients: int
) -> None:
    network, batch = windowed(classifying(2), 2, pool=pool), images(2, count=1)
    assert network.tiles.count == 9
    engine = Engine(network, [Saliency()], target, 4)
    engine.explain(batch, names(batch))
    assert (engine.forward_passes, engine.backward_passes) == (round(9 * asked), gradients)
    engine = Engine(network, [Saliency()], target, 9)
    engine.explain(batch, names(batch))
    assert (engine.forward_passes, engine.backward_passes) == (9, 9)


def test_metrics_ask_about_the_whole_image() -> None:
    module, batch = classifying(2), images(2)
    explainers, target = [IntegratedGradients(steps=64), Saliency()], Classes(classes=("b",))
    metrics = [CompletenessGap(), Deletion(points=4, patch=6)]
    values = []
    for network, size in ((windowed(module, 2), 4), (network_of(Whole(module, 2), IMAGE[2]), 16)):
        engine = Engine(network, explainers, target, size)
        maps = engine.explain(batch, names(batch)).maps
        values.append([one.value for one in evaluate(engine, metrics, batch, names(batch), maps)])
    assert values[0][0][:, 0, 0].amax() < 0.02 < values[0][0][:, 0, 1].amin()
    for found, expected in zip(*values, strict=True):
        assert torch.allclose(found, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"image_shape": (37,) * 3}, "one number for each axis"),
        ({"overlap": (0.5,)}, "one number for each axis"),
        ({"overlap": 1.0}, "less than 1"),
        ({"image_shape": (0, 4)}, "at least one place"),
        ({"pool": {"top": 10}}, "takes 10 windows, but an image has 9"),
    ],
)
def test_windows_that_do_not_fit_are_refused(how: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        windowed(classifying(2), 2, **how)


@pytest.mark.parametrize("kind", ["deeplift", "deepshap"])
def test_multipliers_need_a_mean_over_windows(kind: str) -> None:
    network = windowed(classifying(2), 2, pool="max")
    with pytest.raises(ConfigurationError, match=f"{kind}: multipliers need logits .* linear"):
        Engine(network, [few(kind)], Classes(classes=("b",)))


def test_images_of_another_shape_are_refused() -> None:
    engine = Engine(windowed(classifying(2), 2), [Saliency()], Predicted())
    with pytest.raises(ValueError, match=r"\(16, 12\), but windows are taken of images of \(37, 30\)"):
        engine.explain(images(2, shape=(16, 12)), ("a", "b"))


class _BesideARecord(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(2, 4, 3, padding=1), nn.Linear(4 + 2, 2)

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        pooled = torch.tanh(self.features(images)).mean((2, 3))
        return self.head(torch.cat([pooled, record], 1)) ** 2


def test_a_record_goes_beside_every_window_and_channels_are_kept() -> None:
    torch.manual_seed(0)
    module = _BesideARecord().double().eval()
    windows = Windows(image_shape=(12, 14))
    config = NetworkConfig(classes=("a", "b"), channels=2, input_shape=(8, 8), windows=windows)
    images, record = torch.randn(3, 2, 12, 14).double(), torch.randn(3, 2).double()

    def score(images: Tensor, record: Tensor) -> Tensor:
        cut = [images[:, :, y : y + 8, x : x + 8] for y, x in windows.starts((8, 8))]
        return torch.stack([module(part, record)[:, 1] for part in cut]).mean(0)

    network = Network(module, config, fields=[RecordField(name="age"), RecordField(name="weight")])
    explainers = [Saliency(), Occlusion(window=4, stride=4), IntegratedGradients(steps=20)]
    engine = Engine(network, explainers, Classes(classes=("b",)), 2, keeps_channels=True)
    found = engine.explain(images, ["a", "b", "c"], record=record).outputs
    inputs = images.clone().requires_grad_(), record.clone().requires_grad_()
    of_images, of_record = torch.autograd.grad(score(*inputs).sum(), inputs)
    torch.testing.assert_close(found["attribution_channel"][:, 0, 0], of_images)
    torch.testing.assert_close(found["attribution_record"][:, 0, 0], of_record)
    hidden, without = images.clone(), record.clone()
    hidden[:, 1, :4, :4] = 0
    without[:, 0] = 0
    whole = score(images, record)
    torch.testing.assert_close(found["attribution_channel"][:, 0, 1, 1, 0, 0], whole - score(hidden, record))
    torch.testing.assert_close(found["attribution_record"][:, 0, 1, 0], whole - score(images, without))
    path = found["attribution"][:, 0, 2].flatten(1).sum(1) + found["attribution_record"][:, 0, 2].sum(1)
    torch.testing.assert_close(path, whole - score(0 * images, 0 * record))
