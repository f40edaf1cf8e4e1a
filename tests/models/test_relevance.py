"""Relevance rules against dense matrices in NumPy, Captum, and the axioms."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LRP as CaptumLRP
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.fusion import fuse_conv_bn_eval

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.deep_taylor import DeepTaylor
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.lrp import COMPOSITES, LRP, AlphaBeta, Epsilon, Flat, Gamma, WSquared, ZBox, ZPlus
from models.explainers.pattern_attribution import PatternAttribution
from models.network import Network
from models.targets import Classes
from tests.models.networks import difference, few, make, names, wrap

B = Classes(classes=("b",))
SIDES = {2: (6, 5), 3: (4, 5, 4)}
CONV = {2: nn.Conv2d, 3: nn.Conv3d}
NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
Array = NDArray[np.float64]


def network_of(module: nn.Module, dims: int = 2) -> Network:
    return wrap(module, dims, shape=SIDES[dims])


def plain(dims: int, bias: bool = True, seed: int = 0) -> nn.Sequential:
    """Two layers: a convolution, ReLU, and a linear layer."""
    torch.manual_seed(seed)
    conv = CONV[dims](1, 3, 3, bias=bias)
    features = 3 * int(np.prod([side - 2 for side in SIDES[dims]]))
    return nn.Sequential(conv, nn.ReLU(), nn.Flatten(), nn.Linear(features, 4, bias=bias)).double()


def batch(dims: int, count: int = 3) -> Tensor:
    return torch.randn(count, 1, *SIDES[dims], dtype=torch.float64, generator=torch.Generator().manual_seed(1))


def explain(network: Network, explainer: Any, images: Tensor, **options: Any) -> Tensor:
    return Engine(network, [explainer], B, **options).explain(images, names(images)).maps[:, 0, 0]


def dense(layer: nn.Module, shape: tuple[int, ...]) -> Array:
    """The matrix ``(output, input)`` of a layer without its bias."""
    basis = torch.eye(int(np.prod(shape)), dtype=torch.float64).view(-1, *shape)
    zero = layer(torch.zeros(1, *shape, dtype=torch.float64))
    return (layer(basis) - zero).flatten(1).T.detach().numpy()


def handed_back(rule: str, w: Array, b: Array, x: Array, relevance: Array) -> Array:
    """The rules as they are written: ``(input,)`` from ``(output, input)`` and ``(output,)``."""
    z = w * x
    positive, negative = np.maximum(z, 0), np.minimum(z, 0)
    out = z.sum(1) + b
    if rule == "epsilon":
        share = z / (out + 0.1 * np.where(out < 0, -1, 1))[:, None]
    elif rule == "gamma":
        favoured = np.where(out[:, None] > 0, positive, negative)
        total = out + 0.25 * (favoured.sum(1) + np.where(out > 0, np.maximum(b, 0), np.minimum(b, 0)))
        share = (z + 0.25 * favoured) / total[:, None]
    elif rule in ("alpha_beta", "z_plus"):
        alpha = 2.0 if rule == "alpha_beta" else 1.0
        up, down = positive.sum(1) + np.maximum(b, 0), negative.sum(1) + np.minimum(b, 0)
        safe = [
            np.divide(part, total[:, None], out=np.zeros_like(part), where=total[:, None] != 0)
            for part, total in ((positive, up), (negative, down))
        ]
        share = alpha * safe[0] - (alpha - 1) * safe[1]
    elif rule == "flat":
        share = (w != 0) / (w != 0).sum(1, keepdims=True)
    elif rule == "w_squared":
        share = w**2 / (w**2).sum(1, keepdims=True)
    else:
        boxed = z - x.min() * np.maximum(w, 0) - x.max() * np.minimum(w, 0)
        share = boxed / boxed.sum(1, keepdims=True)
    return (share * relevance[:, None]).sum(0)


RULES: dict[str, Any] = {
    "epsilon": Epsilon(epsilon=0.1),
    "gamma": Gamma(),
    "alpha_beta": AlphaBeta(),
    "z_plus": ZPlus(),
}
INPUT_RULES: dict[str, Any] = {"flat": Flat(), "w_squared": WSquared(), "z_box": ZBox()}


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("rule", [*RULES, *INPUT_RULES])
def test_each_rule_equals_its_formula_on_dense_matrices(rule: str, dims: int) -> None:
    module, images = plain(dims), batch(dims)
    first, last = module[0], module[3]
    above = rule if rule in RULES else "epsilon"
    rules: tuple[Any, ...] = (RULES[above],)
    if rule in INPUT_RULES:
        rules = (INPUT_RULES[rule].model_copy(update={"layers": "input"}), *rules)
    found = explain(network_of(module, dims), LRP(rules=rules), images)
    conv, bias = dense(first, (1, *SIDES[dims])), np.repeat(first.bias.detach().numpy(), last.in_features // 3)
    for image, relevance in zip(images.flatten(1).numpy(), found, strict=True):
        hidden = np.maximum(conv @ image + bias, 0)
        start = np.zeros(4)
        start[1] = last.weight[1].detach().numpy() @ hidden + float(last.bias[1])
        middle = handed_back(above, last.weight.detach().numpy(), last.bias.detach().numpy(), hidden, start)
        expected = handed_back(rule, conv, bias, image, middle)
        assert difference(relevance.flatten(), torch.as_tensor(expected)) < 1e-9


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (Epsilon(epsilon=1e-6), lambda: EpsilonRule(1e-6)),
        (Gamma(gamma=0.3), lambda: GammaRule(0.3)),
        (ZPlus(), Alpha1_Beta0_Rule),
    ],
)
def test_rules_equal_captums_where_inputs_are_positive(ours: Any, theirs: Callable[[], Any]) -> None:
    """Captum's rules are those for what follows a ReLU; its last layer's logit must be positive for `gamma`."""
    module, images = plain(2, bias=False), batch(2).abs()
    module[3].weight.data.abs_()
    found = explain(network_of(module), LRP(rules=(ours,)), images)
    for layer in module:
        layer.rule = theirs()
    assert difference(found, CaptumLRP(module).attribute(images, target=1)[:, 0]) < 1e-5


@pytest.mark.parametrize("dims", [2, 3])
def test_lrp_0_is_input_times_gradient_on_a_relu_network_and_sums_to_the_logit(dims: int) -> None:
    module, images = plain(dims, bias=False), batch(dims)
    network = network_of(module, dims)
    found = explain(network, LRP(rules=(Epsilon(epsilon=0.0),)), images)
    assert difference(found, explain(network, InputXGradient(), images)) < 1e-9
    assert torch.allclose(found.flatten(1).sum(1), module(images)[:, 1])


def test_lrp_0_is_input_times_gradient_through_norms_pools_and_residuals() -> None:
    for name in ("ResNet18", "DenseNet121"):
        network = make(name, 2)
        images = torch.randn(1, 1, 64, 48, dtype=torch.float64)
        found = explain(network, LRP(rules=(Epsilon(epsilon=0.0),)), images)
        assert difference(found, explain(network, InputXGradient(), images)) < 1e-9


@pytest.mark.parametrize("composite", COMPOSITES)
def test_relevance_is_conserved_without_biases(composite: Any) -> None:
    module, images = plain(2, bias=False), batch(2)
    found = explain(network_of(module), LRP(composite=composite), images)
    assert torch.allclose(found.flatten(1).sum(1), module(images)[:, 1], rtol=1e-3)


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("composite", COMPOSITES)
def test_batch_norm_is_folded_into_the_layer_before_it(composite: Any, dims: int) -> None:
    torch.manual_seed(0)
    conv, norm = CONV[dims](1, 4, 3), NORM[dims](4)
    norm.running_mean.uniform_(-1, 1), norm.running_var.uniform_(0.5, 2)
    nn.init.normal_(norm.weight), nn.init.normal_(norm.bias)
    head = nn.Linear(4 * int(np.prod([side - 2 for side in SIDES[dims]])), 4)
    apart = nn.Sequential(conv, norm, nn.ReLU(inplace=True), nn.Flatten(), head).double().eval()
    folded = nn.Sequential(fuse_conv_bn_eval(conv, norm), nn.ReLU(), nn.Flatten(), head)
    explainer, images = LRP(composite=composite), batch(dims)
    one, other = (explain(network_of(module, dims), explainer, images) for module in (apart, folded))
    assert difference(one, other) < 1e-9


def test_rules_are_chosen_by_layer_name_before_the_composite() -> None:
    module, images = plain(2), batch(2)
    network = network_of(module)
    named = explain(network, LRP(composite="epsilon", rules=(ZPlus(layers="0"),)), images)
    assert difference(named, explain(network, LRP(composite="epsilon_plus"), images)) < 1e-9
    assert difference(named, explain(network, LRP(composite="epsilon"), images)) > 0.01


def test_gates_and_attention_count_as_constants() -> None:
    class Gated(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.gate, self.head = nn.Linear(30, 8), nn.Linear(30, 8), nn.Linear(8, 4)

        def forward(self, x: Tensor) -> Tensor:
            x = x.flatten(1)
            return self.head(self.body(x) * torch.sigmoid(self.gate(x)))

    torch.manual_seed(0)
    module, images = Gated().double(), batch(2, count=1)
    found = explain(network_of(module), LRP(rules=(Epsilon(epsilon=0.0),)), images)
    gate = torch.sigmoid(module.gate(images.flatten(1)))
    expected = images.flatten(1) * ((module.head.weight[1] * gate) @ module.body.weight)
    assert difference(found.flatten(1), expected) < 1e-9


def test_what_has_no_rule_is_refused_by_its_name() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.head = nn.LSTM(5, 6, batch_first=True), nn.Linear(6, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.lstm(x[:, 0])[0][:, -1])

    class OwnBackward(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x.exp()

        @staticmethod
        def backward(ctx: Any, *gradients: Tensor) -> Tensor:
            return gradients[0]

    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.head = nn.Linear(30, 4)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(OwnBackward.apply(x.flatten(1)))

    for module, what in ((Recurrent(), "lstm"), (Own(), "OwnBackward")):
        with pytest.raises(ValueError, match=f"lrp: .*no rule for {what}.*use integrated_gradients"):
            Engine(network_of(module), [LRP()], B)
    with pytest.raises(ValueError, match="rule flat is for the input alone, not for layer '3'"):
        Engine(network_of(plain(2)), [LRP(rules=(Flat(layers="3"),))], B)


@pytest.mark.parametrize("dims", [2, 3])
def test_deep_taylor_is_z_plus_with_z_box_and_has_the_sign_of_the_logit(dims: int) -> None:
    module, images = plain(dims, bias=False), batch(dims)
    network = network_of(module, dims)
    found = explain(network, DeepTaylor(low=-4.0, high=4.0), images)
    logits = module(images)[:, 1]
    assert len(logits.sign().unique()) == 2
    signs = logits.sign().view(-1, *[1] * dims)
    assert (found * signs).min() >= 0
    assert torch.allclose(found.flatten(1).sum(1), logits)
    with pytest.raises(ValueError, match=r"deep_taylor: Sequential has no ReLU .*Tanh"):
        Engine(network_of(nn.Sequential(nn.Flatten(), nn.Linear(30, 4), nn.Tanh())), [DeepTaylor()], B)


def test_patterns_find_the_signal_where_weights_cancel_a_distractor() -> None:
    """The toy of Kindermans et al. 2018, section 2: weights look away from a distractor, patterns at the signal."""
    torch.manual_seed(0)
    signal, distractor = torch.randn(30).double(), torch.randn(30).double()
    weight = signal - (signal @ distractor) / (distractor @ distractor) * distractor
    strength = torch.randn(1000, 1).double()
    images = (strength * signal + 2 * torch.randn(1000, 1).double() * distractor).view(-1, 1, *SIDES[2])
    module = nn.Sequential(nn.Flatten(), nn.Linear(30, 4, bias=False)).double()
    module[1].weight.data = weight.expand(4, -1).clone()
    found = explain(network_of(module), PatternAttribution(), images[:2], fitted={"background": images[:1000]})
    pattern = signal / (weight @ signal)
    expected = (module(images[:2])[:, 1:2] * weight * pattern).view(2, *SIDES[2])
    assert difference(found, expected) < 0.15
    assert difference(explain(network_of(module), InputXGradient(), images[:2]), expected) > 0.5


@pytest.mark.parametrize("dims", [2, 3])
def test_patterns_are_covariances_where_the_output_is_positive(dims: int) -> None:
    module, images, background = plain(dims), batch(dims, 2), batch(dims, 9)[2:]
    found = explain(network_of(module, dims), PatternAttribution(), images, fitted={"background": background})
    patches: list[list[Array]] = [[] for _ in range(3)]
    outputs: list[list[float]] = [[] for _ in range(3)]
    answers = module[0](background).detach().numpy()
    for image, answer in zip(background[:, 0].numpy(), answers, strict=True):
        for place in np.ndindex(*answer.shape[1:]):
            patch = image[tuple(slice(at, at + 3) for at in place)]
            for feature in range(3):
                if (y := answer[(feature, *place)]) > 0:
                    patches[feature].append(patch.ravel())
                    outputs[feature].append(y)
    by_pattern = []
    for feature in range(3):
        x, y = np.array(patches[feature]), np.array(outputs[feature])
        covariance = (x * y[:, None]).mean(0) - x.mean(0) * y.mean()
        w = module[0].weight[feature].detach().numpy().ravel()
        by_pattern.append(w * covariance / (w @ covariance))
    hidden = module[:3](background).detach().numpy()
    logit = module(background)[:, 1].detach().numpy()
    over = logit > 0
    assert over.any()
    covariance = (hidden * logit[:, None])[over].mean(0) - hidden[over].mean(0) * logit[over].mean()
    w = module[3].weight[1].detach().numpy()
    assert w @ covariance > 0
    last = torch.as_tensor(w * covariance / (w @ covariance))
    conv = CONV[dims](1, 3, 3, bias=False).double()
    conv.weight.data = torch.as_tensor(np.stack(by_pattern)).view_as(conv.weight)
    inputs = images.clone().requires_grad_()
    back = last.view(1, 3, *[side - 2 for side in SIDES[dims]]) * (module[0](images) > 0)
    (gradient,) = torch.autograd.grad(conv(inputs), inputs, back)
    score = module(images)[:, 1].view(-1, 1, *[1] * dims)
    assert difference(found, (gradient * score)[:, 0].detach()) < 1e-9


def first_padded(*before: nn.Module, padding: int = 0) -> nn.Sequential:
    torch.manual_seed(0)
    conv, head = nn.Conv2d(1, 4, 3, padding=padding), nn.Linear(4, 4)
    return nn.Sequential(*before, conv, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), head).double()


@pytest.mark.parametrize("rule", INPUT_RULES)
def test_rules_for_the_input_reach_beyond_padding(rule: str) -> None:
    explainer = LRP(rules=(INPUT_RULES[rule].model_copy(update={"layers": "input"}),))
    found = explain(network_of(first_padded(nn.ConstantPad2d(1, 0.0))), explainer, batch(2))
    assert difference(found, explain(network_of(first_padded(padding=1)), explainer, batch(2))) < 1e-12


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
@pytest.mark.parametrize("rule", INPUT_RULES)
def test_relevance_of_repeated_pixels_is_theirs(rule: str, mode: str) -> None:
    """The relevance of an image that was padded before is handed back by the padding."""
    explainer = LRP(rules=(INPUT_RULES[rule].model_copy(update={"layers": "input"}),))
    module, images = first_padded(padding=1), batch(2).requires_grad_()
    module[0].padding_mode = mode
    module[0]._reversed_padding_repeated_twice = [1, 1, 1, 1]
    found = explain(network_of(module), explainer, images.detach())
    padded = functional.pad(images, (1, 1, 1, 1), mode)
    larger = wrap(first_padded(), shape=tuple(padded.shape[2:]))
    (expected,) = torch.autograd.grad(padded, images, explain(larger, explainer, padded.detach())[:, None])
    assert difference(found, expected[:, 0]) < 1e-9


def changing(before: nn.Module) -> Network:
    return network_of(nn.Sequential(before, *plain(2)).double(), 2)


@pytest.mark.parametrize("composite", ["epsilon_plus_flat", "epsilon_alpha2_beta1_flat", "epsilon_gamma_box"])
def test_a_rule_for_the_input_that_reaches_no_pixels_is_an_error(composite: Any) -> None:
    network = changing(nn.Hardtanh(-1, 1))
    with pytest.raises(ConfigurationError, match="for the input is applied nowhere, since no linear layer"):
        LRP(composite=composite).needs(network)
    LRP(composite="epsilon_plus").needs(network)


CHANGED: dict[str, Callable[[Tensor], Any]] = {
    "added": lambda x: x.add_(0.7),
    "by a view": lambda x: x.view(x.shape).mul_(3.0),
    "in part": lambda x: x[:, :, 0].fill_(5.0),
}


@pytest.mark.parametrize("how", CHANGED)
def test_pixels_that_were_changed_in_place_are_pixels_no_more(how: str) -> None:
    class Changing(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = plain(2)

        def forward(self, x: Tensor) -> Tensor:
            copy = x.clone()
            CHANGED[how](copy)
            return self.body(copy)

    with pytest.raises(ConfigurationError, match=r"applied nowhere, since no linear|no rule for fill_"):
        LRP(composite="epsilon_gamma_box").needs(network_of(Changing()))


def test_a_rule_for_layers_that_are_not_there_is_an_error() -> None:
    network = network_of(plain(2), 2)
    with pytest.raises(ConfigurationError, match=r"the rule gamma is applied nowhere: .* fits `layers: features\.\*`"):
        LRP(rules=(Gamma(layers="features.*"),)).needs(network)


class InPlace(nn.Module):
    """A residual block whose ReLU writes over what is added later."""

    def __init__(self, how: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.first, self.second, self.head, self.how = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4), how

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        return self.head((self.second(self.how(features)) + features).mean((2, 3)))


IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "module": nn.ReLU(inplace=True),
    "functional": lambda x: functional.relu(x, inplace=True),
    "functional.relu_": functional.relu_,
    "torch.relu_": torch.relu_,
    "method": lambda x: x.relu_(),
    "leaky": lambda x: functional.leaky_relu(x, inplace=True),
}


@pytest.mark.parametrize("explainer", ["lrp", "deep_taylor", "deeplift"])
@pytest.mark.parametrize("how", IN_PLACE)
def test_a_value_in_place_that_rules_do_not_see_is_refused(how: str, explainer: str) -> None:
    torch.manual_seed(0)
    network = network_of(InPlace(IN_PLACE[how]).double(), 2)
    message = (
        "has no ReLU" if how == "leaky" and explainer not in ("lrp", "deeplift") else "in place that is used again"
    )
    with pytest.raises(ConfigurationError, match=message):
        few(explainer).needs(network)


class Statement(nn.Module):
    """A network whose forward pass calls an operation in place, and goes on with what was changed."""

    def __init__(self, how: Callable[[Tensor, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.head, self.how = nn.Conv2d(1, 4, 3), nn.Conv2d(4, 4, 1), nn.Linear(4, 4), how

    def forward(self, images: Tensor) -> Tensor:
        features = self.first(images)
        self.how(features, self.second(features.clone()))
        return self.head(features.mean((2, 3)))


STATEMENTS: dict[str, tuple[Callable[[Tensor, Tensor], Any], str]] = {
    "no rule": (lambda x, other: x.clamp_(-0.2, 0.3), "no rule for clamp_"),
    "two factors": (lambda x, other: x.mul_(other), "no rule for mul_"),
    "a gate": (lambda x, other: x.sigmoid_(), "in place that is used again"),
}


@pytest.mark.parametrize("how", STATEMENTS)
def test_an_operation_in_place_whose_answer_is_not_taken_is_refused(how: str) -> None:
    change, message = STATEMENTS[how]
    with pytest.raises(ConfigurationError, match=message):
        LRP(composite="epsilon").needs(network_of(Statement(change).double()))


BY_IMAGE: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], str]] = {
    "divided": (lambda x, other: torch.ones(1).to(x) / (2 + other.relu()), "no rule for div"),
    "dynamic": (
        lambda x, other: functional.conv2d(
            x.reshape(1, -1, *x.shape[2:]), other.mean((2, 3)).view(-1, 1, 1, 1), groups=4 * len(x)
        ).view(x.shape),
        "no rule for conv2d by weights that depend on the image",
    ),
}


@pytest.mark.parametrize("how", BY_IMAGE)
def test_an_operation_that_is_not_linear_in_one_factor_is_refused(how: str) -> None:
    class Varying(Statement):
        def forward(self, images: Tensor) -> Tensor:
            features = self.first(images)
            return self.head(self.how(features, self.second(features)).mean((2, 3)))

    change, message = BY_IMAGE[how]
    with pytest.raises(ConfigurationError, match=message):
        LRP(composite="epsilon").needs(network_of(Varying(change).double()))


def test_a_refused_operation_is_named_before_one_in_place() -> None:
    class Refused(InPlace):
        def forward(self, images: Tensor) -> Tensor:
            features = functional.group_norm(self.first(images), 2)
            features += self.second(features * 1.0)
            return self.head(features.relu().mean((2, 3)))

    with pytest.raises(ConfigurationError, match="no rule for group_norm"):
        few("deeplift").needs(network_of(Refused(nn.ReLU()).double(), 2))
