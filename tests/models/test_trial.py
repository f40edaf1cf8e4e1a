"""A network is a function of the image alone, and answers with logits; anything else is refused when it is made."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.gradcam import GradCAM
from models.explainers.layercam import LayerCAM
from models.explainers.occlusion import Occlusion
from models.explainers.saliency import Saliency
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes
from models.trial import alike, told
from tests.models.networks import difference

SHAPE = (13, 17)


class Small(nn.Module):
    """Two layers; a test says what the second takes, and what becomes of the logits."""

    def __init__(
        self,
        before: Callable[[Any, Tensor], Tensor] = lambda self, x: x,
        between: Callable[[Any, Tensor], Tensor] = lambda self, x: x.relu().mean((2, 3)),
        after: Callable[[Any, Tensor], Any] = lambda self, x: x,
        classes: int = 3,
        norm: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.before, self.between, self.after = before, between, after
        self.conv, self.norm, self.head = nn.Conv2d(1, 6, 3), norm or nn.Identity(), nn.Linear(6, classes)
        self.calls = 0
        self.kept: Any = None

    def forward(self, images: Tensor) -> Any:
        return self.after(self, self.head(self.between(self, self.norm(self.conv(self.before(self, images))))))


def wrap(module: nn.Module, classes: tuple[str, ...] = ("a", "b", "c"), activation: str = "softmax") -> Network:
    config = NetworkConfig(
        network={"_target_": "tests.Network"}, classes=classes, input_shape=SHAPE, activation=activation
    )
    return Network(module.double(), config)


def images(count: int = 3) -> Tensor:
    return torch.randn(count, 1, *SHAPE, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def explain(network: Network, explainer: Any, batch: Tensor) -> Tensor:
    names = [str(row) for row in range(len(batch))]
    return Engine(network, [explainer], Classes(classes=("b",))).explain(batch, names).maps[:, 0, 0]


def counted(self: Small, logits: Tensor) -> Tensor:
    self.calls += 1
    return logits + self.calls


def kept_from_before(self: Small, logits: Tensor) -> Tensor:
    self.kept = logits.mean() if self.kept is None else self.kept
    return logits * self.kept


def without_the_mean(self: Small, images: Tensor) -> Tensor:
    images -= 0.5
    return images


def through_numpy(self: Small, images: Tensor) -> Tensor:
    images.detach().numpy()[:] *= 2
    return images


def beside(self: Small, features: Tensor) -> Tensor:
    return features.relu().mean((2, 3)).softmax(0)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "dropout that is always on": (
        lambda: Small(between=lambda _, x: functional.dropout(x.relu().mean((2, 3)), 0.5)), "asked .* again"
    ),
    "a count of calls": (lambda: Small(after=counted), "asked .* again|other images"),
    "noise": (lambda: Small(after=lambda _, x: x + torch.randn_like(x)), "asked .* again"),
    "statistics of the batch": (lambda: Small(norm=nn.BatchNorm2d(6, track_running_stats=False)), "other images"),
    "a softmax over the batch": (lambda: Small(between=beside), "other images"),
    "the mean of the batch": (lambda: Small(after=lambda _, x: x - x.mean(0)), "other images"),
    "one row for all": (lambda: Small(after=lambda _, x: x.mean(0, keepdim=True)), "1 rows for 2 images"),
    "an input changed in place": (lambda: Small(before=without_the_mean), "changes its input in place"),
    "an input changed past torch": (lambda: Small(before=through_numpy), "changes its input in place"),
    "a softmax at the end": (lambda: Small(after=lambda _, x: x.softmax(1)), r"sum to 1.*activation: identity"),
    "a sigmoid at the end": (lambda: Small(after=lambda _, x: x.sigmoid()), r"between 0 and 1.*activation: identity"),
    "a sigmoid by hand": (lambda: Small(after=lambda _, x: 1 / (1 + (-x).exp())), "between 0 and 1"),
    "a sigmoid that is clamped": (
        lambda: Small(after=lambda _, x: x.sigmoid().clamp(1e-6, 1 - 1e-6)), "between 0 and 1"
    ),
    "the mean of two sigmoids": (
        lambda: Small(after=lambda _, x: torch.stack([x.sigmoid(), (2 * x).sigmoid()]).mean(0)), "between 0 and 1"
    ),
    "names and tensors": (lambda: Small(after=lambda _, x: {"out": x}), "returns a dict of 'out' for one image"),
    "nothing": (lambda: Small(after=lambda _, x: None), "returns nothing for one image"),
    "an empty tuple": (lambda: Small(after=lambda _, x: ()), "returns a tuple for one image"),
    "decisions": (lambda: Small(after=lambda _, x: (x > 0).long()), "returns torch.int64"),
    "a second argument": (lambda: nn.Bilinear(17, 17, 3), "takes a second input .* cohort.record"),
    "an attribute that is not there": (lambda: Small(after=lambda self, x: self.nothing), "AttributeError"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_function_of_the_image_is_refused(what: str) -> None:
    torch.manual_seed(0)
    make, message = REFUSED[what]
    with pytest.raises(ConfigurationError, match=message):
        wrap(make())


@pytest.mark.parametrize(
    ("classes", "activation", "message"),
    [
        (("a",), "softmax", "softmax of one logit is always 1.*sigmoid"),
        (("a", "b", "a"), "softmax", "'a' more than once"),
        (("a", "b", "a "), "softmax", "'a' more than once"),
        (("caf\u00e9", "b", "cafe\u0301"), "sigmoid", "'caf\u00e9' more than once"),
        (("a", " ", "b"), "sigmoid", "holds the name ' '"),
    ],
)
def test_names_of_classes_that_cannot_be_are_refused(classes: tuple[str, ...], activation: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"model.classes.*{message}"):
        wrap(Small(classes=len(classes)), classes, activation)


@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity"])
def test_small_logits_are_not_taken_for_probabilities(activation: str) -> None:
    torch.manual_seed(0)
    module = Small(after=lambda _, x: 0.5 + 0.01 * x)
    assert wrap(module, activation=activation).config.activation == activation
    wrap(Small(after=lambda _, x: x.log_softmax(1)))
    wrap(Small(after=lambda _, x: x.sigmoid()), activation="identity")
    wrap(Small(between=lambda _, x: x.mean((2, 3)).sigmoid(), after=lambda _, x: 0.5 + 0.01 * x))


def test_something_kept_of_the_first_call_takes_part_in_gradients() -> None:
    def between(self: Small, x: Tensor) -> Tensor:
        if self.kept is None:
            self.kept = torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)
        return (x * self.kept).relu().mean((2, 3))

    torch.manual_seed(0)
    module, batch = Small(between=between), images()
    reference = copy.deepcopy(module).double()
    inputs = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(reference(inputs)[:, 1].sum(), inputs)
    assert difference(explain(wrap(module), Saliency(), batch), gradient[:, 0]) < 1e-12


def test_a_network_that_answers_otherwise_than_it_was_trained_is_told() -> None:
    torch.manual_seed(0)
    module = Small(after=kept_from_before)
    trained = copy.deepcopy(module).double()
    with (
        torch.no_grad(),
        pytest.raises(ConfigurationError, match="otherwise about images of the cohort than as it was"),
    ):
        wrap(module).check_same(trained, images())


@pytest.mark.parametrize("channels", [1, 3])
def test_a_view_after_convolutions_is_as_right_as_without(channels: int) -> None:
    class Flat(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.head = nn.Conv2d(channels, 6, 5, stride=4), nn.Linear(6 * 3 * 4, 3)

        def forward(self, images: Tensor) -> Tensor:
            return self.head(self.conv(images).relu().view(-1, 6 * 3 * 4))

    torch.manual_seed(0)
    module, batch = Flat().double(), images().repeat(1, channels, 1, 1)
    expected = copy.deepcopy(module)(batch).detach()
    config = NetworkConfig(
        network={"_target_": "tests.Network"}, classes=("a", "b", "c"), channels=channels, input_shape=SHAPE
    )
    network = Network(module, config)
    found = Engine(network, [Saliency(), GradCAM()], Classes(classes=("b",))).explain(batch, "abc")
    assert torch.allclose(found.logits, expected)


@pytest.mark.parametrize("functionally", [False, True])
@pytest.mark.parametrize("batch_size", [1, 2, 3])
@pytest.mark.parametrize("dims", [2, 3])
def test_instance_norm_hands_the_right_gradient_back_to_one_image(
    dims: int, batch_size: int, functionally: bool
) -> None:
    shape = {2: SHAPE, 3: (7, 8, 9)}[dims]
    conv, pool = {2: (nn.Conv2d, nn.AdaptiveAvgPool2d), 3: (nn.Conv3d, nn.AdaptiveAvgPool3d)}[dims]

    class Normed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.pool, self.head = conv(1, 6, 3), conv(6, 5, 3), pool(1), nn.Linear(5, 3)
            self.norm = {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d}[dims](6, affine=True)

        def forward(self, images: Tensor) -> Tensor:
            x = self.first(images)
            x = functional.instance_norm(x) if functionally else self.norm(x)
            return self.head(self.pool(self.second(functional.silu(x)).relu()).flatten(1))

    torch.manual_seed(0)
    module = Normed().double()
    batch = torch.randn(3, 1, *shape, dtype=torch.float64)
    inputs = batch.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(copy.deepcopy(module)(inputs)[:, 1].sum(), inputs)
    config = NetworkConfig(network={"_target_": "tests.Network"}, classes=("a", "b", "c"), input_shape=shape)
    engine = Engine(Network(module, config), [Saliency()], Classes(classes=("b",)), batch_size)
    assert difference(engine.explain(batch, "abc").maps[:, 0, 0], gradient[:, 0]) < 1e-9


def test_a_backbone_without_gradients_can_be_occluded_but_not_differentiated() -> None:
    def frozen(self: Small, images: Tensor) -> Tensor:
        return images.detach()

    torch.manual_seed(0)
    network = wrap(Small(before=frozen))
    assert explain(network, Occlusion(window=8, stride=8), images()).abs().amax() > 0
    with pytest.raises(ConfigurationError, match="no gradient of the logits of Small"):
        explain(network, Saliency(), images())


def test_likeness_is_measured_by_what_varies_between_images() -> None:
    answers = 1e4 + torch.tensor([[0.1], [0.2]], dtype=torch.float64)
    assert alike(answers + 1e-4, answers)
    assert not alike(answers + 0.01, answers)
    assert alike(answers * 0 + torch.nan, answers * torch.nan)
    assert not alike(answers * torch.nan, answers)
    assert not alike(answers[:1], answers)


class Checkpointed(nn.Module):
    """Layers whose activations are computed again for gradients."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = nn.Sequential(nn.Conv2d(1, 6, 3), nn.Tanh()), nn.Linear(6, 3)

    def forward(self, images: Tensor) -> Any:
        return self.head(checkpoint(self.features, images, use_reentrant=False).relu().mean((2, 3)))


def test_checkpointed_layers_have_a_remedy() -> None:
    network = wrap(Checkpointed())
    with pytest.raises(ConfigurationError, match="use_checkpoint: false"), told("one batch was tried, and failed"):
        explain(network, LayerCAM(layer="features.0"), images())
