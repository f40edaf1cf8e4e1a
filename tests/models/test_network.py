import hashlib
import pickle
from io import BytesIO
from typing import Any, ClassVar

import pytest
import torch
from safetensors.torch import save

from models.components import locate
from models.explainers.attention import Attention
from models.explainers.gradcam import GradCAM
from models.loading import NAMESPACES, build
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier

ARGUMENTS = {"spatial_dims": 2, "in_channels": 1, "num_classes": 2}


def config(**changes: Any) -> NetworkConfig:
    network = {"_target_": "models.networks.AttentionGatedClassifier", **ARGUMENTS}
    return NetworkConfig(**{"network": network, "classes": ("a", "b"), "input_shape": (32, 24)} | changes)


def state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return AttentionGatedClassifier(**ARGUMENTS).state_dict()


def pt(content: object) -> bytes:
    sink = BytesIO()
    torch.save(content, sink)
    return sink.getvalue()


@pytest.mark.parametrize("weights", [save(state()), pt(state()), pt({"state_dict": state(), "epoch": 3})])
def test_weights_are_loaded_from_safetensors_and_state_dicts(weights: bytes) -> None:
    network = build(config(sha256=hashlib.sha256(weights).hexdigest()), weights)
    expected = AttentionGatedClassifier(**ARGUMENTS).eval()
    expected.load_state_dict(state())
    with torch.no_grad():
        assert torch.allclose(network(network.synthetic(3)), expected(network.synthetic(3)), atol=1e-5)
    assert not network.module.training
    assert not any(parameter.requires_grad for parameter in network.module.parameters())


class Planted:
    """Says that it was unpickled."""

    opened: ClassVar[list[int]] = []

    def __reduce__(self) -> Any:
        return (Planted.opened.append, (1,))


@pytest.mark.parametrize("weights", [pt({"x": Planted()}), pickle.dumps(Planted()), b"garbage", b""])
def test_anything_but_tensors_is_refused_and_never_unpickled(weights: bytes) -> None:
    with pytest.raises(ValueError, match="weights"):
        build(config(), weights)
    assert Planted.opened == []


def test_another_digest_is_refused() -> None:
    with pytest.raises(ValueError, match=r"SHA-256 .* but model.sha256 is 0{64}"):
        build(config(sha256="0" * 64), save(state()))


def test_weights_of_another_network_are_refused_with_the_names_that_differ() -> None:
    with pytest.raises(ValueError, match=r"do not fit AttentionGatedClassifier: .* are missing, .*; 1 are not known"):
        build(config(), save({"other": torch.zeros(1)}))
    first, *_ = state()
    with pytest.raises(ValueError, match=rf"1 have another shape, such as '{first}', which is \(1,\) where"):
        build(config(), save(state() | {first: torch.zeros(1)}))


def test_weights_that_were_saved_with_what_is_around_the_network_are_told_by_their_names() -> None:
    around = {f"tower.left.{name}": tensor for name, tensor in state().items()}
    with pytest.raises(ValueError, match=r"names begin with 'tower\.left\.'"):
        build(config(), save(around))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"classes": ("a", "b", "c")}, r"returns \(1, 2\) for one image; \(1, 3\) was expected"),
        ({"channels": 3}, "does not take an image of shape"),
        ({"input_shape": (4, 4)}, "does not take an image of shape"),
        ({"network": {"_target_": "os.system", "command": "true"}}, "not allowed here"),
        ({"network": {"_target_": "monai.networks.nets.DenseNet999"}}, "cannot be imported"),
        ({"network": {"_target_": "torch.nn.Linear", "in_fetures": 3}}, "in_fetures"),
        ({"network": {"_target_": "torch.nn.functional.relu", "input": 1}}, "relu"),
    ],
)
def test_a_network_that_cannot_be_right_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, AttributeError), match=message):
        build(config(**changes), save(state()))


@pytest.mark.parametrize("target", ["os.system", "monai.bundle.run", "torch.nnx.Linear", "models.networks_of.x.Net"])
def test_only_the_allowed_namespaces_can_be_named(target: str) -> None:
    with pytest.raises(ValueError, match="not allowed here"):
        locate({"_target_": target}, NAMESPACES)


def test_an_unknown_layer_is_refused_with_the_nearest_names() -> None:
    network = build(config(), save(state()))
    with pytest.raises(ValueError, match=r"no layer 'block\.3'; the nearest names are 'blocks\.3'"):
        GradCAM(layer="block.3").needs(network)
    with pytest.raises(ValueError, match="'classifier' has no spatial extent"):
        GradCAM(layer="classifier").needs(network)


def test_the_last_layer_with_a_spatial_extent_is_found() -> None:
    assert build(config(), save(state())).layer(None) == "gates.1"


def test_attention_is_refused_where_the_network_declares_none() -> None:
    torch.manual_seed(0)
    module = torch.nn.Linear(2, 2)
    network = build(config(), save(state()))
    network.module = module
    with pytest.raises(ValueError, match="Linear declares no attention layers"):
        Attention().needs(network)


def test_sigmoid_outputs_are_independent() -> None:
    network = build(config(activation="sigmoid"), save(state()))
    logits = torch.tensor([[0.0, 4.0]])
    assert torch.allclose(network.probability(logits), 1 / (1 + torch.exp(-logits)))
