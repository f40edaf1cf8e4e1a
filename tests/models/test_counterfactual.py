"""Counterfactuals: the smallest change where it is known, whatever the batch, and only where a prediction can turn."""

from typing import Any

import pytest
import torch
from monai.networks.nets import AutoencoderKL, VarAutoEncoder
from safetensors.torch import save
from torch import Tensor, nn

from models.autoencoders import Autoencoder, AutoencoderConfig, load_autoencoder
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers.counterfactual import Counterfactual
from models.explainers.saliency import Saliency
from models.flags import MapFlag
from models.network import Network
from models.network_config import NetworkConfig
from models.records import RecordField
from models.targets import Classes, Difference, OverThreshold, Predicted, Region, Target
from models.windows import Windows
from tests.models.networks import CLASSES, difference, names

SHAPES = {2: (16, 12), 3: (8, 6, 10)}
LATENT = 5


class Linear(nn.Module):
    """A principal component analysis: latent means are projections."""

    def __init__(self, shape: tuple[int, ...]) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        count = torch.Size(shape).numel()
        basis, _ = torch.linalg.qr(torch.randn(count, LATENT, generator=generator))
        self.shape, self.basis = shape, nn.Parameter(basis)

    def encode(self, images: Tensor) -> tuple[Tensor, Tensor]:
        means = (images.flatten(1) - 1) @ self.basis
        return means, torch.ones_like(means)

    def decode(self, latent: Tensor) -> Tensor:
        return (latent @ self.basis.T + 1).unflatten(1, self.shape)


class Given(Counterfactual):
    """A counterfactual whose autoencoder is made by a test."""

    autoencoder: AutoencoderConfig = AutoencoderConfig(network={"_target_": "tests.Linear"})

    def load(self, network: Network) -> Autoencoder:
        return Autoencoder(Linear((network.config.channels, *network.config.input_shape)), network)


def network_of(
    module: nn.Module, shape: tuple[int, ...] = SHAPES[2], channels: int = 1, classes: int = 2, **changes: Any
) -> Network:
    fields = changes.pop("fields", ())
    config = NetworkConfig(classes=CLASSES[:classes], channels=channels, input_shape=shape, **changes)
    return Network(module.double(), config, fields=fields)


def linear(dims: int = 2, channels: int = 1, classes: int = 2, **changes: Any) -> Network:
    torch.manual_seed(3)
    count = channels * torch.Size(SHAPES[dims]).numel()
    return network_of(
        nn.Sequential(nn.Flatten(), nn.Linear(count, classes)), SHAPES[dims], channels, classes, **changes
    )


def curved(classes: int = 4, channels: int = 1, **changes: Any) -> Network:
    torch.manual_seed(5)
    module = nn.Sequential(
        *(nn.Conv2d(channels, 6, 3), nn.ReLU(), nn.Conv2d(6, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()),
        nn.Linear(8 * 6 * 4, classes),
    )
    return network_of(module, channels=channels, classes=classes, **changes)


def images(network: Network, count: int = 6) -> Tensor:
    shape = (count, network.config.channels, *network.config.input_shape)
    return 2 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def explained(network: Network, target: Target, batch: Tensor, size: int = 16, **parameters: Any) -> dict[str, Tensor]:
    return Engine(network, [Given(**parameters)], target, size).explain(batch, names(batch)).outputs


def margin_of(network: Network, target: Target, batch: Tensor) -> Tensor:
    """How far a target is ahead, written down once more: above 0 where the network decides for it."""
    logits = network(batch)
    if isinstance(target, Difference):
        return logits[:, 0] - logits[:, 1]
    if network.config.activation == "sigmoid":
        return logits[:, 1]
    others = torch.cat([logits[:, :1], logits[:, 2:]], 1)
    return logits[:, 1] - others.amax(1)


CASES: list[tuple[int, int, str, Target]] = [
    (2, 1, "softmax", Classes(classes=("b",))),
    (2, 3, "softmax", Classes(classes=("b",))),
    (3, 1, "softmax", Classes(classes=("b",))),
    (2, 1, "sigmoid", Classes(classes=("b",))),
    (2, 1, "softmax", Difference(of="a", against="b")),
]


@pytest.mark.parametrize(("dims", "channels", "activation", "target"), CASES)
def test_on_a_linear_network_the_change_is_the_projection_onto_the_boundary(
    dims: int, channels: int, activation: str, target: Target
) -> None:
    network = linear(dims, channels, activation=activation)
    batch = images(network)
    found = explained(network, target, batch, longest=100.0)

    (weight, _) = network.module.parameters()
    basis = Linear((channels, *SHAPES[dims])).double().basis
    w = weight[1] if activation == "sigmoid" else weight[0] - weight[1]
    normal = basis.T @ w
    margin = margin_of(network, target, batch)
    moved = (margin.abs() / normal.square().sum())[:, None] * normal  # in the latent space
    apart = (found["counterfactual"][:, 0] - batch).flatten(1)
    assert difference(apart.abs(), (moved @ basis.T).abs()) < 2e-3
    assert torch.equal(found["counterfactual_valid"], torch.ones(len(batch), 1).double())
    assert (margin * margin_of(network, target, found["counterfactual"][:, 0]) < 0).all()
    expected = [moved.norm(dim=1), (moved @ basis.T).abs().sum(1), (moved @ basis.T).norm(dim=1)]
    assert difference(found["counterfactual_distance"][:, 0], torch.stack(expected, 1)) < 2e-3
    assert torch.equal(found["attribution"][:, 0, 0], apart.view(batch.shape).abs().amax(1))
    if not isinstance(target, Difference):
        assert difference(found["counterfactual_probability"], torch.full((len(batch), 1), 0.5)) < 0.05


def test_each_prediction_turns_just_beyond_the_boundary_and_for_each_target() -> None:
    network = curved()
    batch = images(network, 8)
    found = explained(network, Predicted(k=2), batch, longest=3.0)
    valid = found["counterfactual_valid"] == 1
    assert valid.float().mean() >= 0.5
    before = network(batch).argmax(1)
    for rank, (row, image) in ((rank, one) for rank in (0, 1) for one in enumerate(batch) if valid[one[0], rank]):
        target = int(found["target_class"][row, rank])
        changed = found["counterfactual"][row, rank]
        near = image + 0.95 * (changed - image)  # the tests' decoder is linear, so that this lies on the way
        decisions = network(torch.stack([changed, near])).argmax(1)
        assert (decisions == target).tolist() == [rank == 1, rank == 0]
        assert before[row] == found["target_class"][row, 0]
        probability = network.probability(network(changed[None]))[0, target]
        assert torch.isclose(found["counterfactual_probability"][row, rank], probability)
    assert torch.equal(found["attribution"].isfinite().flatten(3).all(-1)[..., 0], valid)


def test_a_change_is_the_same_alone_in_a_batch_and_in_any_order() -> None:
    network = curved(channels=2)
    before = {name: value.clone() for name, value in network.module.state_dict().items()}
    batch = images(network, 5)
    target = OverThreshold(threshold=0.2)
    together = Engine(network, [Saliency(), Given()], target, 16, keeps_channels=True).explain(batch, names(batch))
    alone = Engine(network, [Given()], target, 1, keeps_channels=True).explain(batch.flip(0), names(batch)[::-1])
    for name, values in alone.outputs.items():
        expected = together.outputs[name]
        expected = expected[:, :, 1:] if name.startswith(("attribution", "map_flags", "channel_share")) else expected
        assert torch.allclose(values.flip(0).double(), expected.double(), rtol=1e-6, equal_nan=True), name
    assert all(torch.equal(before[name], value) for name, value in network.module.state_dict().items())
    assert not any(part._forward_hooks or part.training for part in network.module.modules())
    no_target = together.target_class < 0
    assert no_target.any() and not no_target.all()
    for name in ("counterfactual", "counterfactual_valid", "counterfactual_probability", "counterfactual_distance"):
        assert together.outputs[name][no_target].isnan().all()


def test_channels_are_kept_and_the_map_has_the_strongest() -> None:
    network = curved(channels=3)
    batch = images(network, 3)
    found = Engine(network, [Given()], Predicted(), 2, keeps_channels=True).explain(batch, names(batch)).outputs
    apart = (found["counterfactual"][:, 0] - batch).abs()
    assert torch.equal(found["attribution_channel"][:, 0, 0], apart)
    assert torch.equal(found["attribution"][:, 0, 0], apart.amax(1))


def test_where_nothing_turns_the_prediction_there_is_no_counterfactual() -> None:
    network = linear()
    with torch.no_grad():
        network.module[1].weight.zero_()
        network.module[1].bias.copy_(torch.tensor([1.0, 0.0]))
    batch = images(network, 2)
    explanation = Engine(network, [Given()], Predicted()).explain(batch, names(batch))
    found = explanation.outputs
    assert (found["counterfactual_valid"] == 0).all()
    for name in ("counterfactual", "counterfactual_probability", "counterfactual_distance", "attribution"):
        assert found[name].isnan().all()
    assert (explanation.map_flags == MapFlag.NOT_FINITE).all()


def test_a_record_stays_as_it_is() -> None:
    class WithRecord(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(torch.Size(SHAPES[2]).numel() + 1, 2)

        def forward(self, images: Tensor, record: Tensor) -> Tensor:
            return self.linear(torch.cat([images.flatten(1), record], 1))

    torch.manual_seed(0)
    network = network_of(WithRecord(), fields=(RecordField(name="age"),))
    batch, record = images(network), torch.linspace(-3, 3, 6).double()[:, None]
    engine = Engine(network, [Given(longest=100.0)], Predicted())
    found = engine.explain(batch, names(batch), record=record).outputs
    assert (found["counterfactual_valid"] == 1).all()
    after = network(found["counterfactual"][:, 0], record)
    assert (after.argmax(1) != found["target_class"][:, 0]).all()
    assert (after[:, 0] - after[:, 1]).abs().max() < 0.05


def segmenting() -> Network:
    return network_of(nn.Conv2d(1, 2, 3, padding=1))


REFUSED: dict[str, tuple[Any, Target, str]] = {
    "regression": (lambda: linear(activation="identity"), Classes(classes=("b",)), "regression decides for no class"),
    "segments": (segmenting, Region(classes=("b",)), "decides at each place"),
    "windows": (
        lambda: curved(2, windows=Windows(image_shape=(32, 24))),
        Predicted(),
        "takes an image whole, and model.windows takes parts",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_networks_without_a_prediction_that_turns_are_refused(case: str) -> None:
    make, target, said = REFUSED[case]
    with pytest.raises(ConfigurationError, match=f"counterfactual: .*{said}"):
        Engine(make(), [Given()], target)


def test_a_form_without_gradients_is_refused() -> None:
    network = linear()
    network.capabilities = frozenset()
    with pytest.raises(ConfigurationError, match="counterfactual: needs gradients"):
        Engine(network, [Given()], Predicted())


class Mixing(Linear):
    """An autoencoder that is no function of the image alone."""

    def decode(self, latent: Tensor) -> Tensor:
        return super().decode(latent - latent.mean(0))


@pytest.mark.parametrize(
    ("module", "said"),
    [
        (nn.Flatten(), "Flatten has no methods `encode` and `decode`"),
        (Linear((1, 8, 12)), "Linear does not take images of shape \\(1, 16, 12\\)"),
        (Linear((2, 8, 12)), "Linear returns \\(2, 8, 12\\) for an image of shape \\(1, 16, 12\\)"),
        (Mixing((1, *SHAPES[2])), "Mixing answers otherwise about an image when other images are in its batch"),
    ],
)
def test_a_module_that_is_no_autoencoder_of_the_images_is_refused(module: nn.Module, said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        Autoencoder(module, linear())


FLAT = {
    "_target_": "monai.networks.nets.VarAutoEncoder", "spatial_dims": 2, "in_shape": [1, 16, 12], "out_channels": 1,
    "latent_size": 3, "channels": [4, 4], "strides": [2, 2], "use_sigmoid": False,
}  # fmt: skip
GRID = {
    "_target_": "monai.networks.nets.AutoencoderKL", "spatial_dims": 2, "channels": [4, 4], "num_res_blocks": 1,
    "attention_levels": [False, False], "latent_channels": 2, "norm_num_groups": 2,
    "with_encoder_nonlocal_attn": False, "with_decoder_nonlocal_attn": False,
}  # fmt: skip


@pytest.mark.parametrize(("component", "kind"), [(FLAT, VarAutoEncoder), (GRID, AutoencoderKL)])
def test_autoencoders_of_monai_are_taken_as_they_are(component: dict[str, Any], kind: type[nn.Module]) -> None:
    torch.manual_seed(1)
    module: Any = kind(**{name: value for name, value in component.items() if name != "_target_"}).eval()
    network = linear()
    loaded = load_autoencoder(AutoencoderConfig(network=component), save(module.state_dict()), network)
    batch = images(network)
    if kind is VarAutoEncoder:
        expected = module.double().decode_forward(module.encode_forward(batch)[0], use_sigmoid=False)
    else:
        expected = module.double().reconstruct(batch)
    assert torch.allclose(loaded.decode(loaded.encode(batch)), expected)


def test_weights_that_do_not_fit_and_classes_that_are_not_allowed_are_refused() -> None:
    with pytest.raises(ConfigurationError, match=r"autoencoder\.weights do not fit VarAutoEncoder: .* are missing"):
        load_autoencoder(AutoencoderConfig(network=FLAT), save({"other": torch.zeros(1)}), linear())
    elsewhere = AutoencoderConfig(network={"_target_": "subprocess.Popen"})
    with pytest.raises(ConfigurationError, match=r"autoencoder\.network: .* is not allowed here"):
        load_autoencoder(elsewhere, b"", linear())
