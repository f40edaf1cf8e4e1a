"""A backbone with a linear probe, or with its similarity to references, is explained as the two together."""

from collections.abc import Callable
from io import BytesIO
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save
from torch import Tensor, nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.heads import HeadConfig
from models.loading import Files, build, load_module
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes
from tests.models.test_forms import IMAGES, SHAPE, as_exported, as_onnx

FEATURES = 6
PROBE = {"fc.weight": torch.randn(2, FEATURES, generator=torch.Generator().manual_seed(5)), "fc.bias": torch.ones(2)}
REFERENCES = {name: torch.randn(FEATURES, generator=torch.Generator().manual_seed(n)) for n, name in enumerate("ab")}


class Backbone(nn.Module):
    """Features over places, as a field of a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(1, FEATURES, 3, padding=1), nn.ReLU())

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        maps = self.layers(images)
        return {"maps": maps, "tokens": maps.flatten(2).mT, "pooled": maps.mean((2, 3)) + 1}


def backbone() -> Backbone:
    torch.manual_seed(0)
    return Backbone().eval()


POOLED: dict[tuple[str, str], Callable[[dict[str, Tensor]], Tensor]] = {
    ("maps", "mean"): lambda found: found["maps"].mean((2, 3)),
    ("tokens", "mean"): lambda found: found["tokens"].mean(1),
    ("tokens", "first"): lambda found: found["tokens"][:, 0],
    ("pooled", "mean"): lambda found: found["pooled"],
}


def config(**changes: Any) -> NetworkConfig:
    return NetworkConfig(**{"classes": ("a", "b"), "input_shape": SHAPE, "output": "maps"} | changes)


def with_head(data: bytes, **changes: Any) -> Network:
    return build(config(**changes), Files((as_exported(backbone()),), data))


def with_references(data: bytes, **changes: Any) -> Network:
    return with_head(data, **{"reference": HeadConfig(), "activation": "identity", **changes})


def npy(values: Any) -> bytes:
    file = BytesIO()
    np.save(file, values)
    return file.getvalue()


def maps(network: Network, name: str) -> Tensor:
    explainer = EXPLAINERS.adapter.validate_python({"name": name})
    return Engine(network, [explainer], Classes(classes=("b",)), 4).explain(IMAGES, "abc").maps[:, 0, 0]


def assert_explained_as(network: Network, by_hand: Callable[[Tensor], Tensor]) -> None:
    images = IMAGES.clone().requires_grad_()
    expected = by_hand(images)
    assert torch.allclose(network(IMAGES), expected, atol=1e-5)
    (gradient,) = torch.autograd.grad(expected[:, 1].sum(), images)
    scale = float(gradient.abs().max())
    assert torch.allclose(maps(network, "saliency"), gradient[:, 0], rtol=1e-3, atol=1e-5 * scale)


@pytest.mark.parametrize(("output", "pool"), POOLED)
def test_a_probe_is_linear_in_the_pooled_features(output: str, pool: str) -> None:
    network = with_head(save(PROBE), output=output, head=HeadConfig(pool=pool))
    pooled = POOLED[output, pool]
    assert_explained_as(network, lambda images: pooled(backbone()(images)) @ PROBE["fc.weight"].T + PROBE["fc.bias"])
    assert network.form == "exported program and a linear head"


@pytest.mark.parametrize("stored", [save(REFERENCES), npy(np.stack([REFERENCES[name] for name in "ab"]))])
def test_a_similarity_is_the_cosine_to_each_reference(stored: bytes) -> None:
    def by_hand(images: Tensor) -> Tensor:
        features = backbone()(images)["pooled"]
        cosines = [features @ one / features.norm(dim=1) / one.norm() for one in REFERENCES.values()]
        return torch.stack(cosines, 1)

    network = with_references(stored, output="pooled")
    assert_explained_as(network, by_hand)
    with pytest.raises(ConfigurationError, match="no rule for cosine_similarity"):
        maps(network, "lrp")


def test_one_reference_is_one_output() -> None:
    network = with_references(npy(REFERENCES["a"].numpy()), classes=("as the first",), output="pooled")
    assert network(IMAGES).shape == (3, 1)


def test_a_probe_on_places_has_a_cam() -> None:
    found = maps(with_head(save(PROBE)), "cam")
    features = backbone()(IMAGES)["maps"]
    expected = torch.einsum("k,ikyx->iyx", PROBE["fc.weight"][1], features)
    assert torch.allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_relevance_goes_through_a_probe() -> None:
    network = with_head(save({"weight": PROBE["fc.weight"]}), combine="logits")
    whole = nn.Sequential(backbone().layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(FEATURES, 2, bias=False))
    whole[3].load_state_dict({"weight": PROBE["fc.weight"]})
    expected = maps(Network(whole, config(output=None)), "lrp")
    assert torch.allclose(maps(network, "lrp"), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_backbone_without_gradients_has_none_with_a_head() -> None:
    network = build(config(output=0), Files((as_onnx(backbone()),), save(PROBE)))
    assert not network.capabilities
    images = backbone()(IMAGES)["maps"].mean((2, 3)) @ PROBE["fc.weight"].T + PROBE["fc.bias"]
    assert torch.allclose(network(IMAGES), images, atol=1e-5)


WRONG: dict[str, tuple[Callable[[], Any], str]] = {
    "two layers": (
        lambda: with_head(save({"a": torch.ones(2, 6), "b": torch.ones(2, 2)})),
        "weight .* were expected",
    ),
    "another bias": (lambda: with_head(save(PROBE | {"fc.bias": torch.ones(3)})), r"fc\.bias \(3,\)"),
    "other features": (lambda: with_head(save({"weight": torch.ones(2, 5)})), "fails|does not take"),
    "other classes": (lambda: with_head(save({"weight": torch.ones(3, 6)})), r"returns \(1, 3\)"),
    "no file of tensors": (lambda: with_head(b"solid gold"), r"model\.head: the file is neither safetensors"),
    "no token": (lambda: with_head(save(PROBE), head=HeadConfig(pool="first")), "are no tokens: set `pool: mean`"),
    "another digest": (lambda: with_head(save(PROBE), head=HeadConfig(sha256="0" * 64)), "its sha256 is 000"),
    "a missing class": (
        lambda: with_references(save({"a": torch.ones(6)})),
        r"model\.reference: there is no vector 'b'",
    ),
    "no direction": (lambda: with_references(save(REFERENCES | {"b": torch.zeros(6)})), "a vector is zero"),
    "a matrix": (lambda: with_references(save(REFERENCES | {"b": torch.ones(2, 3)})), "vectors of one length"),
    "too many rows": (lambda: with_references(npy(np.ones((3, 6)))), "one row of floats for each of 2 classes"),
    "objects": (lambda: with_references(npy(np.array([{}], object))), "damaged, or holds objects"),
    "a softmax of cosines": (lambda: with_references(save(REFERENCES), activation="softmax"), "activation: identity"),
    "folds": (
        lambda: load_module(config(head=HeadConfig()), Files((as_exported(backbone()),) * 2, save(PROBE))),
        "a head was fitted to one backbone",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_refused(name: str) -> None:
    make, message = WRONG[name]
    with pytest.raises(ConfigurationError, match=message):
        make()


@pytest.mark.parametrize("kind", ["vit", "dinov2"])
def test_a_probe_follows_a_backbone_of_transformers(kind: str) -> None:
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(3)
    arguments = {"image_size": 16, "patch_size": 8, "num_channels": 1, "hidden_size": 12, "num_hidden_layers": 1,
                 "num_attention_heads": 2}  # fmt: skip
    theirs = transformers.AutoModel.from_config(transformers.AutoConfig.for_model(kind, **arguments)).eval()
    network = {"_target_": "models.networks.Transformers", "model_type": kind, "num_labels": 0, **arguments}
    weight = torch.randn(2, 12 if kind == "vit" else 24)
    own = NetworkConfig(network=network, classes=("a", "b"), input_shape=(16, 16), head=HeadConfig())
    found = build(own, Files((save(theirs.state_dict()),), save({"weight": weight})))
    images = torch.randn(2, 1, 16, 16)
    tokens = theirs(images).last_hidden_state
    features = [tokens[:, 0]] + [tokens[:, 1:].mean(1)] * (kind == "dinov2")  # as its own classifier takes them
    assert torch.allclose(found(images), torch.cat(features, 1) @ weight.T, atol=1e-5)
