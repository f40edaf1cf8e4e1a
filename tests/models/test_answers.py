"""Whatever a module returns, its maps are those of the module that returns the same as logits, or it is refused."""

from collections import OrderedDict, namedtuple
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.answers import logits_of, part_of
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes

SHAPE = (12, 10)
NAMES = ("healthy", "ill")
Pair = namedtuple("Pair", ["features", "scores"])
EXPLAINED = ("saliency", "gradcam", "integrated_gradients", "occlusion", "deeplift", "lrp", "guided_backprop", "cam")


@dataclass
class Answer:
    features: Tensor
    scores: Any


class Returning(nn.Module):
    """Two convolutions and a linear head; a test says what becomes of its logits."""

    def __init__(self, returned: Callable[[Tensor], Any] = lambda z: z, outputs: int = 2, dims: int = 2) -> None:
        super().__init__()
        torch.manual_seed(1)
        convolution = {2: nn.Conv2d, 3: nn.Conv3d}[dims]
        self.features = nn.Sequential(convolution(1, 4, 3, padding=1), nn.ReLU(), convolution(4, 5, 3, padding=1))
        self.relu, self.head, self.returned = nn.ReLU(), nn.Linear(5, outputs), returned

    def forward(self, images: Tensor) -> Any:
        return self.returned(self.head(self.relu(self.features(images)).flatten(2).mean(2)))


def images(dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=dtype)


def network_of(module: nn.Module, **fields: Any) -> Network:
    return Network(module.double(), NetworkConfig(**{"classes": NAMES, "input_shape": SHAPE} | fields))


def maps(network: Network, name: str, *classes: str) -> Tensor:
    explainer = EXPLAINERS.adapter.validate_python({"name": name})
    return Engine(network, [explainer], Classes(classes=classes or NAMES)).explain(images(), "abc").maps


def close(found: Tensor, expected: Tensor) -> bool:
    return torch.allclose(found, expected, rtol=1e-9, atol=1e-9 * float(expected.detach().abs().max()))


PARTS: dict[str, tuple[Callable[[Tensor], Any], str | int | None]] = {
    "the first of a tuple": (lambda z: (z, -z), None),
    "the first of a named tuple": (lambda z: Pair(z, -z), None),
    "a key": (lambda z: {"loss": None, "scores": z}, "scores"),
    "a key of an ordered mapping": (lambda z: OrderedDict(aux=-z, scores=z), "scores"),
    "a place": (lambda z: (-z, z), 1),
    "a field of a dataclass": (lambda z: Answer(-z, z), "scores"),
    "a field of a named tuple": (lambda z: Pair(-z, z), "scores"),
    "a place of a named tuple": (lambda z: Pair(-z, z), 1),
    "a place in a key": (lambda z: {"out": [-z, z]}, "out.1"),
    "a key in a field": (lambda z: Answer(-z, {"main": z}), "scores.main"),
}


@pytest.mark.parametrize("what", PARTS)
@pytest.mark.parametrize("name", EXPLAINED)
def test_the_part_that_counts_is_explained_as_if_it_were_all(what: str, name: str) -> None:
    returned, output = PARTS[what]
    assert close(maps(network_of(Returning(returned), output=output), name), maps(network_of(Returning()), name))


@pytest.mark.parametrize(
    ("returned", "output", "message"),
    [
        (lambda z: {"out": z, "aux": z}, None, "a dict of 'out', 'aux' for one image: name .* in model.output"),
        (lambda z: Answer(z, z), None, "an? Answer of 'features', 'scores' .* model.output"),
        (lambda z: {"out": z}, "logits", "model.output is 'logits', .* there is no 'logits', but 'out'"),
        (lambda z: (z,), 1, "model.output is 1, .* a tuple: there is no '1', but '0'"),
        (lambda z: {"out": (z,)}, "out.1", "there is no '1', but '0'"),
        (lambda z: z, "logits", "model.output is 'logits', .* a Tensor: there is no 'logits'"),
        (lambda z: {"out": "z"}, "out", "returns a str for one image"),
    ],
)
def test_a_part_that_is_not_named_or_not_there_is_refused(
    returned: Callable[[Tensor], Any], output: Any, message: str
) -> None:
    with pytest.raises(ConfigurationError, match=message):
        network_of(Returning(returned), output=output)


@pytest.mark.parametrize("name", EXPLAINED)
@pytest.mark.parametrize(
    ("activation", "ending", "plain"),
    [
        ("softmax", lambda z: z.softmax(1), lambda z: z.log_softmax(1)),
        ("sigmoid", lambda z: z.sigmoid(), lambda z: z),
    ],
)
def test_probabilities_are_explained_by_their_logarithm(
    name: str, activation: str, ending: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor]
) -> None:
    network = network_of(Returning(ending), activation=activation, outputs="probabilities")
    expected = network_of(Returning(plain), activation=activation)
    assert close(network(images()), expected(images()))
    assert close(network.probability(network(images())), ending(Returning().double()(images())))
    if name in ("deeplift", "lrp", "cam"):  # there is no rule for a logarithm, and the head is not linear
        with pytest.raises(ConfigurationError):
            maps(network, name)
    else:
        assert close(maps(network, name), maps(expected, name))


def test_a_gradient_of_probabilities_is_that_of_autograd() -> None:
    module = Returning(lambda z: z.softmax(1)).double()
    inputs = images().requires_grad_()
    module(inputs)[:, 1].log().sum().backward()
    assert inputs.grad is not None
    found = maps(network_of(Returning(lambda z: z.softmax(1)), outputs="probabilities"), "saliency", "ill")
    assert close(found[:, 0, 0], inputs.grad[:, 0])


def test_probabilities_of_0_and_1_have_finite_logits() -> None:
    certain = torch.tensor([[0.0, 1.0], [1e-30, 1.0]])
    for activation in ("softmax", "sigmoid"):
        logits = logits_of(certain, "probabilities", activation, 2)  # type: ignore[arg-type]
        assert logits.isfinite().all()
        probability = logits.softmax(1) if activation == "softmax" else logits.sigmoid()
        assert torch.allclose(probability, certain)
    assert float(logits[0, 0]) == pytest.approx(float(torch.log(torch.tensor(torch.finfo(torch.float32).tiny))))


@pytest.mark.parametrize("name", EXPLAINED)
def test_one_output_stands_for_two_classes(name: str) -> None:
    plain, one = Returning(), Returning(outputs=1)
    with torch.no_grad():
        plain.head.weight.copy_(torch.cat([-one.head.weight, one.head.weight]))
        plain.head.bias.copy_(torch.cat([-one.head.bias, one.head.bias]))
        plain.features.load_state_dict(one.features.state_dict())
    network, expected = (network_of(module, activation="sigmoid") for module in (one, plain))
    if name == "cam":
        with pytest.raises(ConfigurationError):
            maps(network, name)
    else:
        assert close(maps(network, name), maps(expected, name))


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_two_classes_of_one_output_by_hand(outputs: str) -> None:
    class Sum(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            z = 0.01 * images.flatten(1).sum(1, keepdim=True)
            return z if outputs == "logits" else z.sigmoid()

    network = network_of(Sum(), activation="sigmoid", outputs=outputs)
    image = torch.zeros(1, 1, *SHAPE, dtype=torch.float64)
    image[..., 0, 0] = 100 * torch.log(torch.tensor(3.0, dtype=torch.float64))  # z = log 3, so that p = 3 / 4
    explained = Engine(network, [EXPLAINERS.adapter.validate_python({"name": "saliency"})], Classes(classes=NAMES))
    found = explained.explain(image, "a")
    assert found.probability[0].tolist() == pytest.approx([0.25, 0.75])
    assert float(found.maps[0, 0, 0].unique()) == pytest.approx(-0.01, rel=1e-5)
    assert float(found.maps[0, 1, 0].unique()) == pytest.approx(0.01, rel=1e-5)


REFUSED: dict[str, tuple[Callable[[Tensor], Any], dict[str, Any], str]] = {
    "logits": (lambda z: z, {}, r"model\.outputs is probabilities, but Returning returns values from -?\d.*logits"),
    "positive logits": (lambda z: z.exp() * 3, {}, r"values from .*model\.outputs: logits"),
    "sigmoids under softmax": (lambda z: z.sigmoid(), {}, r"softmax, but the answers .* sum to .*activation: sigmoid"),
    "a regression": (lambda z: z.sigmoid(), {"activation": "identity"}, r"model\.outputs is prob.*identity: set"),
    "small logits": (lambda z: 0.5 + 0.01 * z, {"activation": "sigmoid"}, r"values from .*model\.outputs: logits"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_no_probability_is_refused(what: str) -> None:
    returned, fields, message = REFUSED[what]
    with pytest.raises(ConfigurationError, match=message):
        network_of(Returning(returned), outputs="probabilities", **fields)


@pytest.mark.parametrize(("activation", "outputs"), [("softmax", 2), ("sigmoid", 2), ("sigmoid", 1)])
def test_probabilities_told_to_be_logits_have_a_remedy(activation: str, outputs: int) -> None:
    ending = (lambda z: z.softmax(1)) if activation == "softmax" else (lambda z: z.sigmoid())
    with pytest.raises(ConfigurationError, match=r"set `model\.outputs: probabilities`"):
        network_of(Returning(ending, outputs), activation=activation)


def test_a_network_that_segments_may_return_probabilities() -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(1, 2, 3, padding=1)
    network = network_of(nn.Sequential(layer, nn.Softmax(1)), outputs="probabilities")
    assert network.segments
    assert close(network(images()), layer(images()).log_softmax(1))
    one = network_of(nn.Conv2d(1, 1, 3, padding=1), activation="sigmoid")
    assert one.segments and one(images()).shape == (3, 2, *SHAPE)


def test_a_part_by_its_number_is_found_by_text_too() -> None:
    assert part_of((1, 2), "1", "") == part_of((1, 2), 1, "") == 2
    assert part_of({1: "a"}, 1, "") == "a"
