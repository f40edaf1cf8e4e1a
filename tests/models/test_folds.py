"""Folds as one network answer with the mean of theirs, in every form, and rules are refused where they have none."""

from typing import Any

import pytest
import torch
from torch import Tensor

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.folds import Combine, Folds
from models.loading import Files, build, load_module
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes
from models.uncertainty import FoldsApart
from tests.models.test_forms import CONFIG, IMAGES, Small, as_exported, as_onnx, as_torchscript

ACTIVATIONS = ("softmax", "sigmoid", "identity")


def fold(number: int) -> Small:
    torch.manual_seed(number)
    module = Small().eval()
    torch.nn.init.normal_(module.features[1].bias)
    return module


FOLDS = [fold(number) for number in range(3)]


def by_hand(images: Tensor, combine: str, activation: str) -> Tensor:
    """The logits of the mean over folds, by its definition."""
    answers = torch.stack([one(images) for one in FOLDS])
    if combine == "logits" or activation == "identity":
        return answers.mean(0)
    if activation == "softmax":
        return answers.softmax(-1).mean(0).log()
    mean = answers.sigmoid().mean(0)
    return mean.log() - (1 - mean).log()


def folds(config: NetworkConfig = CONFIG, **changes: Any) -> Network:
    own = config.model_copy(update={"network": {"_target_": "tests.Small"}} | changes)
    return Network(Folds([fold(n) for n in range(3)], own.output, own.outputs, own.activation, own.combine), own)


def maps(network: Network, name: str, **parameters: Any) -> Tensor:
    explainer = EXPLAINERS.adapter.validate_python({"name": name, **parameters})
    return Engine(network, [explainer], Classes(classes=("b",)), 4).explain(IMAGES, "abc").maps[:, 0, 0]


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_answer_and_gradient_are_those_of_the_mean(combine: str, activation: str) -> None:
    network = folds(combine=combine, activation=activation)
    images = IMAGES.clone().requires_grad_()
    expected = by_hand(images, combine, activation)
    assert torch.allclose(network(IMAGES), expected, atol=1e-6)
    (gradient,) = torch.autograd.grad(expected[:, 1].sum(), images)
    scale = float(gradient.abs().max())
    assert torch.allclose(maps(network, "saliency"), gradient[:, 0], rtol=1e-4, atol=1e-5 * scale)


@pytest.mark.parametrize("make", [as_exported, as_onnx, lambda module: as_torchscript(torch.jit.script(module))])
def test_folds_of_any_form_are_one_network(make: Any) -> None:
    files = Files(tuple(make(one) for one in FOLDS))
    config = CONFIG.model_copy(update={"sha256": files.digests})
    network = build(config, files)
    assert network.form.startswith("3 folds of ")
    assert torch.allclose(network(IMAGES), by_hand(IMAGES, "probabilities", "softmax"), atol=1e-5)
    network.check_same(load_module(config, files), IMAGES)
    assert (
        network.capabilities
        == build(config.model_copy(update={"sha256": files.digests[0]}), files.weights[0]).capabilities
    )


def test_probabilities_far_out_keep_their_gradient() -> None:
    network = folds(activation="sigmoid")
    for one in network.module.parts:
        one.head.bias.fill_(-200.0)  # whose sigmoid is 0 in single precision
    images = IMAGES.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(network(images).sum(), images)
    assert gradient.isfinite().all() and gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["lrp", "deeplift", "guided_backprop"])
def test_rules_are_the_mean_of_the_folds_for_logits_and_refused_for_probabilities(name: str) -> None:
    found = maps(folds(combine="logits"), name)
    expected = torch.stack([maps(Network(fold(number), CONFIG), name) for number in range(3)]).mean(0)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))
    if name != "guided_backprop":
        with pytest.raises(ConfigurationError, match=r"there is no rule for logsumexp; set `model\.combine: logits`"):
            maps(folds(), name)


def test_a_layer_is_named_by_its_fold() -> None:
    network = folds(combine="logits")
    with pytest.raises(ConfigurationError, match=r"name one in `layer`, such as 'folds\.0\.features"):
        maps(network, "gradcam")
    found = maps(network, "hirescam", layer="folds.1.features")
    alone = maps(Network(fold(1), CONFIG), "hirescam", layer="features")
    assert torch.allclose(found, alone / 3, rtol=1e-4, atol=1e-6)


def test_batch_norms_are_folded_in_each() -> None:
    names = {name for name, part in folds().module.named_modules() if isinstance(part, torch.nn.BatchNorm2d)}
    assert not names


def test_folds_of_other_classes_are_told_by_number() -> None:
    made = Folds([torch.nn.Linear(3, 2), torch.nn.Linear(3, 4)], None, "logits", "softmax")
    with pytest.raises(ConfigurationError, match=r"fold 2 returns \(1, 4\), and the first \(1, 2\)"):
        made(torch.zeros(1, 3))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"combine": "logits", "outputs": "probabilities"}, r"model\.combine is logits and model\.outputs is prob"),
        ({"output": "logits"}, "there is no 'logits'"),
    ],
)
def test_what_has_no_mean_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        folds(**changes)


def test_folds_that_give_probabilities_are_found_each_by_itself() -> None:
    class Squeezed(Small):
        def forward(self, images: Tensor) -> Tensor:
            return super().forward(images).softmax(1)

    files = Files((as_exported(FOLDS[0]), as_exported(Squeezed().eval())))
    with pytest.raises(ConfigurationError, match="returns probabilities already"):
        build(CONFIG, files)
    both = Files((as_exported(Squeezed().eval()), as_exported(Squeezed().eval())))
    network = build(CONFIG.model_copy(update={"outputs": "probabilities"}), both)
    assert torch.allclose(network.probability(network(IMAGES)).sum(1), torch.ones(3))


@pytest.mark.parametrize(
    ("sha256", "message"),
    [
        ("0" * 64, "one digest for each of 2 files"),
        (("0" * 64,) * 3, "one digest for each of 2 files"),
        (("", "1" * 64), r"fold 2 of 2: the weights have SHA-256 .* but model\.sha256 is 1111"),
    ],
)
def test_each_fold_has_its_digest(sha256: Any, message: str) -> None:
    files = Files(tuple(as_exported(one) for one in FOLDS[:2]))
    found = tuple(own or files.digests[place] for place, own in enumerate(sha256)) if "" in sha256 else sha256
    with pytest.raises(ConfigurationError, match=message):
        build(CONFIG.model_copy(update={"sha256": found}), files)


@pytest.mark.parametrize("combine", ["probabilities", "logits"])
def test_members_are_the_folds(combine: Combine) -> None:
    network = folds(combine=combine)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    for number, member in enumerate(FoldsApart().members(network)):
        assert torch.allclose(member.network(IMAGES), FOLDS[number](IMAGES), atol=1e-5)
    assert all(torch.equal(value, before[name]) for name, value in network.module.state_dict().items())
    with pytest.raises(ConfigurationError, match=r"model\.weights is one file"):
        FoldsApart().check(Network(fold(0), CONFIG))
