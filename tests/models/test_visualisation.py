"""Feature visualisation: ascents by closed form and on trained networks, planted concepts, measures by scipy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy import ndimage
from torch import Tensor, nn

from models.errors import ConfigurationError
from models.explainers.pooled import PooledActivations
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier
from models.outputs import Frame, Output
from models.results import ClassVisualisation, ConceptVisualisation
from models.results.ascent import Ascent, falling
from models.results.visualisation import MEASURES, bounds_of, measures
from tests.models.networks import CLASSES, make, wrap

SHAPES = {2: (12, 18), 3: (6, 8, 10)}


def drawn(shape: Sequence[int], seed: int = 0) -> Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def ascent(space: Sequence[int], amplitude: Tensor, range_: float = 1e6, length: float = 0.01) -> Ascent:
    low = torch.full((1, *[1] * len(space)), -range_ / 2, dtype=torch.float64)
    return Ascent(low, -low, amplitude, length)


def flat(space: Sequence[int]) -> Tensor:
    return torch.ones_like(falling(space))


@pytest.mark.parametrize("dims", [2, 3])
def test_on_a_linear_network_the_way_up_is_the_weight(dims: int) -> None:
    weight, start = drawn((1, *SHAPES[dims])), drawn((1, *SHAPES[dims]), 1)
    steps = [*ascent(SHAPES[dims], flat(SHAPES[dims])).climb(lambda picture: (weight * picture).sum(), start, 5)]
    moved = steps[-1][0] - start
    assert float(nn.functional.cosine_similarity(moved.flatten(), weight.flatten(), dim=0)) > 1 - 1e-9
    torch.testing.assert_close(moved.square().mean().sqrt(), torch.tensor(5 * 0.01 * 1e6, dtype=torch.float64))


@pytest.mark.parametrize("dims", [2, 3])
def test_in_smooth_pictures_it_is_the_weight_with_falling_coefficients(dims: int) -> None:
    weight, start = drawn((1, *SHAPES[dims])), torch.zeros(1, *SHAPES[dims], dtype=torch.float64)
    steps = [*ascent(SHAPES[dims], falling(SHAPES[dims])).climb(lambda picture: (weight * picture).sum(), start, 1)]
    frequency = np.sqrt(sum(np.square(axis) for axis in np.meshgrid(*map(np.fft.fftfreq, SHAPES[dims]), indexing="ij")))
    spectrum = np.fft.fftn(weight[0].numpy()) / np.maximum(frequency, 1 / max(SHAPES[dims]))
    expected = np.fft.ifftn(spectrum).real
    found = steps[-1][0][0].numpy()
    np.testing.assert_allclose(found / np.linalg.norm(found), expected / np.linalg.norm(expected), atol=1e-6)


@pytest.mark.parametrize("amplitude", [flat, falling])
def test_the_most_that_a_linear_network_can_say_of_values_in_a_range_is_reached(
    amplitude: Callable[[Sequence[int]], Tensor],
) -> None:
    weight, space = drawn((1, *SHAPES[2])), SHAPES[2]
    way = ascent(space, amplitude(space), range_=2.0, length=0.2)
    *_, (picture, score) = way.climb(lambda picture: (weight * picture).sum(), torch.zeros_like(weight), 2000)
    assert picture.abs().max() <= 1
    assert score > 0.999 * float(weight.abs().sum())


def test_no_step_lowers_the_score_of_a_network_of_random_weights() -> None:
    network = make("AttentionGated", 2)
    stored = Stored(network, drawn((6, 1, *network.config.input_shape)).numpy())
    found = ClassVisualisation(steps=6, seeds=2, images=2).compute(stored)["class_visualisation_score"]
    assert found.shape == (4, 4, 7) and (np.diff(found) >= 0).all() and (found[..., -1] > found[..., 0]).all()


def trained() -> Network:
    module = AttentionGatedClassifier(2, 1, 2, features=[12, 24, 48, 64])
    module.load_state_dict(load_file("models/networks/weights/attention_gated_2d.safetensors"))
    config = {"network": {"_target_": "tests.Network"}, "classes": ("normal", "lesion"), "input_shape": (112, 96)}
    return Network(module, NetworkConfig.model_validate(config))


def test_the_trained_network_is_led_from_one_class_to_the_other_over_seeds() -> None:
    """The lesions of the demo are bright: so is what raises them."""
    blob = np.exp(-(np.indices((112, 96)).T - (56, 48)).T.astype(float).__pow__(2).sum(0) / 800)
    images = blob + np.random.default_rng(0).normal(scale=0.03, size=(8, 1, 112, 96))
    images = (images - images.mean((2, 3), keepdims=True)) / images.std((2, 3), keepdims=True)
    stored = Stored(trained(), images.astype(np.float32))
    result = ClassVisualisation(classes=("lesion",), steps=24, seeds=4, images=2)
    found = result.compute(stored)
    scores = found["class_visualisation_score"]
    assert (np.diff(scores) >= 0).all() and (scores[0, :, -1] > scores[0, :, 0] + 5).all()
    for picture in found["class_visualisation"][0]:
        assert int(trained()(torch.from_numpy(picture[None])).argmax()) == 1


@dataclass
class Stored:
    """A cohort as a visualisation sees it, in memory."""

    network: Network
    images: NDArray[Any]
    ids: list[str] = field(default_factory=list)
    outputs: Mapping[str, Output] = field(default_factory=dict)
    directions: NDArray[np.float32] = field(default_factory=lambda: np.empty(0, np.float32))

    def __post_init__(self) -> None:
        self.ids = self.ids or [f"image-{row}" for row in range(len(self.images))]
        self.explained = np.ones(len(self.images), bool)
        config = self.network.config
        self.frame = Frame(config.classes, ("a",), (), ("grey",) * config.channels, config.input_shape, "softmax")

    def inputs(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        return self.images[rows].astype(np.float32)

    def whole(self, *names: str) -> dict[str, NDArray[np.float32]]:
        assert names == ("tcav_direction",)
        return {"tcav_direction": self.directions}


def patterns() -> nn.Module:
    """A layer of two features: stripes across, with a period of 4 places, and stripes along."""
    layer = nn.Conv2d(1, 2, 8, padding="same", padding_mode="circular", bias=False)
    wave = torch.cos(torch.arange(8) * torch.pi / 2)
    layer.weight.data = torch.stack([wave[:, None].expand(8, 8), wave[None].expand(8, 8)])[:, None]
    return nn.Sequential(layer, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 4))


def test_a_planted_concept_is_shown_by_its_pattern() -> None:
    network = wrap(patterns(), shape=(32, 32))
    images = drawn((6, 1, 32, 32)).numpy() / 100 + 10 * np.array([1, -1] * 3).reshape(6, 1, 1, 1)
    frame = Frame(CLASSES, ("a",), (), ("grey",), (32, 32), "softmax")
    activations = PooledActivations(layer="1").declare(frame, network)
    of = Output(name="tcav_direction", dims=("tcav_concept", "pooled_activations_feature"), kind="result", long_name="")
    outputs = {one.name: one for one in (of, *activations)}
    directions = np.array([[1, 0], [0, 1], [np.nan, np.nan]], np.float32)
    stored = Stored(network, images, outputs=outputs, directions=directions)
    found = ConceptVisualisation(steps=48, seeds=2, images=0).compute(stored)
    scores, pictures = found["concept_visualisation_score"], found["concept_visualisation"]
    assert (np.diff(scores[:2]) >= 0).all() and np.isnan(scores[2]).all() and np.isnan(pictures[2]).all()
    for concept, axes in enumerate([(0, 1), (1, 0)]):
        for picture in pictures[concept, :, 0]:
            energy = np.abs(np.fft.fft2(picture - picture.mean())).transpose(axes) ** 2
            assert energy[6:11, :4].sum() > 50 * energy[:4, 6:11].sum()  # eight periods of four places
            assert np.unravel_index(energy.argmax(), energy.shape)[0] in {*range(7, 10), *range(23, 26)}


def test_a_score_is_the_logit_of_the_picture_or_its_mean_over_space() -> None:
    module = nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Tanh())
    for network in (
        wrap(module, shape=SHAPES[2]),
        wrap(nn.Sequential(nn.Flatten(), nn.Linear(216, 4)), shape=SHAPES[2]),
    ):
        found = ClassVisualisation(classes=("b",), steps=3, seeds=1, images=1).compute(
            Stored(network, drawn((5, 1, *SHAPES[2])).numpy())
        )
        with torch.no_grad():
            logits = network(torch.from_numpy(found["class_visualisation"][0]).double())
        expected = logits.flatten(2).mean(-1)[:, 1] if logits.ndim > 2 else logits[:, 1]
        np.testing.assert_allclose(found["class_visualisation_score"][0, :, -1], expected, rtol=1e-5)


@pytest.mark.parametrize("dims", [2, 3])
def test_measures_are_those_of_scipy(dims: int) -> None:
    picture, start = drawn((2, *SHAPES[dims])), drawn((2, *SHAPES[dims]), 1)
    bright = torch.tensor([0.3, -0.2], dtype=torch.float64).view(2, *[1] * dims)
    found = measures(picture, start, bright)
    assert found.shape == (len(MEASURES), 2)
    for channel in range(2):
        values = picture[channel].numpy()
        inner = [ndimage.correlate1d(values, [-0.5, 0, 0.5], axis=axis)[(slice(1, -1),) * dims] for axis in range(dims)]
        slopes = np.sqrt(sum(np.square(np.gradient(values, axis=axis)) for axis in range(dims)))
        np.testing.assert_allclose(slopes[(slice(1, -1),) * dims], np.sqrt(sum(map(np.square, inner))))
        limit = float(bright[channel].flatten())
        expected = [values.mean(), values.std(), slopes.mean(), (values > limit).mean()]
        expected.append(float(np.sqrt(np.mean((values - start[channel].numpy()) ** 2))))
        np.testing.assert_allclose(found[:, channel], expected)


def test_the_range_is_that_of_the_images_channel_by_channel() -> None:
    images = drawn((7, 3, 10, 10))
    low, high, bright = bounds_of(images).numpy()
    values = images.transpose(0, 1).flatten(1).numpy()
    np.testing.assert_array_equal(low, values.min(1))
    np.testing.assert_array_equal(high, values.max(1))
    np.testing.assert_allclose((values > bright[:, None]).mean(1), 0.05, atol=0.002)


def three_channels(space: tuple[int, ...]) -> Network:
    torch.manual_seed(0)
    conv = (nn.Conv2d, nn.Conv3d)[len(space) - 2](3, 4, 3)
    pool = (nn.AdaptiveMaxPool2d, nn.AdaptiveMaxPool3d)[len(space) - 2](1)
    return wrap(nn.Sequential(conv, pool, nn.Flatten(), nn.Linear(4, 4)), len(space), 3, shape=space)


@pytest.mark.parametrize("dims", [2, 3])
def test_pictures_stay_within_the_range_and_are_the_same_in_any_order_and_by_any_threads(dims: int) -> None:
    images = drawn((5, 3, *SHAPES[dims])).numpy()
    ids = [f"image-{row}" for row in range(5)]
    result, network = ClassVisualisation(steps=12, seeds=2, images=7), three_channels(SHAPES[dims])
    found = result.compute(Stored(network, images, ids))
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        again = result.compute(Stored(network, images[::-1], ids[::-1]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert sorted(found["class_visualisation_row"]) == [-1] * 4 + [0, 1, 2, 3, 4]
    for name in found.keys() - {"class_visualisation_row"}:
        assert found[name].tobytes() == again[name].tobytes(), name
    rows = [found["class_visualisation_row"], 4 - again["class_visualisation_row"]]
    assert np.array_equal(rows[0][2:7], rows[1][2:7])
    low, high, _ = found["class_visualisation_range"].reshape(3, 3, *[1] * dims)
    pictures = found["class_visualisation"][:, :7]
    assert (pictures >= low).all() and (pictures <= high).all()
    assert (
        np.isnan(found["class_visualisation"][:, 7:]).all()
        and np.isnan(found["class_visualisation_score"][:, 7:]).all()
    )
    starts = found["class_visualisation_measure"][:, 2:7, 0, 0]
    np.testing.assert_allclose(starts[0], images[rows[0][2:7]].mean((2, 3, 4)[:dims]), atol=1e-6)


def test_seeds_differ_and_are_always_the_same() -> None:
    network = three_channels(SHAPES[2])
    stored = Stored(network, drawn((5, 3, *SHAPES[2])).numpy())
    two, three = (ClassVisualisation(steps=2, seeds=seeds).compute(stored) for seeds in (2, 3))
    assert np.array_equal(two["class_visualisation"][:, :2], three["class_visualisation"][:, :2])
    assert not np.allclose(*three["class_visualisation"][0, :2])


def test_classes_that_the_model_lacks_are_refused() -> None:
    frame = Frame(CLASSES, ("a",), (), ("grey",), (8, 8), "softmax")
    with pytest.raises(ConfigurationError, match=r"names \['x'\], but model.classes are"):
        ClassVisualisation(classes=("x",)).declare(frame)


def test_no_image_leaves_nothing_to_show() -> None:
    stored = Stored(three_channels(SHAPES[2]), drawn((2, 3, *SHAPES[2])).numpy())
    stored.explained[:] = False
    assert ClassVisualisation().compute(stored) == {}
