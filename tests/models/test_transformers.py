"""Networks of transformers are made of their configuration alone, and explained as any other."""

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import Tensor

import cohortlens
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.loading import build, load_module
from models.network import Network
from models.network_config import NetworkConfig
from models.targets import Classes

transformers = pytest.importorskip("transformers")

KINDS: dict[str, dict[str, Any]] = {
    "vit": {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
            "patch_size": 8},
    "convnext": {"hidden_sizes": [8, 12], "depths": [1, 1], "num_stages": 2},
    "resnet": {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]},
}  # fmt: skip
IMAGES = torch.randn(3, 1, 32, 32, generator=torch.Generator().manual_seed(1))


def config(kind: str, **changes: Any) -> NetworkConfig:
    network = {"_target_": "models.networks.Transformers", "model_type": kind, "num_channels": 1, "num_labels": 3}
    size = {"image_size": 32} if kind == "vit" else {}
    return NetworkConfig(
        network=network | size | KINDS.get(kind, {}) | changes, classes=("a", "b", "c"), input_shape=(32, 32)
    )


def theirs(kind: str) -> Any:
    torch.manual_seed(2)
    size = {"image_size": 32} if kind == "vit" else {}
    found = transformers.AutoConfig.for_model(kind, num_channels=1, num_labels=3, **size, **KINDS[kind])
    return transformers.AutoModelForImageClassification.from_config(found).eval()


def maps(network: Network, name: str) -> Tensor:
    explainer = EXPLAINERS.adapter.validate_python({"name": name})
    return Engine(network, [explainer], Classes(classes=("b",))).explain(IMAGES, "abc").maps[:, 0, 0]


@pytest.mark.parametrize("kind", KINDS)
def test_a_state_dict_of_transformers_fits_and_its_gradient_is_that_of_autograd(kind: str) -> None:
    module = theirs(kind)
    network = build(config(kind), save(module.state_dict()))
    inputs = IMAGES.clone().requires_grad_()
    logits = module(inputs).logits
    logits[:, 1].sum().backward()
    assert inputs.grad is not None
    assert torch.allclose(network(IMAGES), logits, atol=1e-5)
    scale = float(inputs.grad.abs().max())
    assert torch.allclose(maps(network, "saliency"), inputs.grad[:, 0], rtol=1e-3, atol=1e-5 * scale)
    assert load_module(config(kind), save(module.state_dict())).state_dict().keys() == module.state_dict().keys()


@pytest.mark.parametrize("kind", KINDS)
def test_a_file_of_save_pretrained_fits(kind: str, tmp_path: Path) -> None:
    module = theirs(kind)
    module.save_pretrained(tmp_path)
    network = build(config(kind), (tmp_path / "model.safetensors").read_bytes())
    assert torch.allclose(network(IMAGES), module(IMAGES).logits, atol=1e-5)


def test_a_network_of_transformers_in_memory_is_explained_by_its_field() -> None:
    module = theirs("vit")
    with pytest.raises(ConfigurationError, match=r"ImageClassifierOutput of 'logits' .* in output"):
        cohortlens.explain(module, IMAGES)
    found = cohortlens.explain(module, IMAGES, output="logits")
    assert torch.allclose(torch.from_numpy(found.logit.values), module(IMAGES).logits, atol=1e-5)


def test_layers_have_the_names_of_transformers() -> None:
    network = build(config("resnet"), save(theirs("resnet").state_dict()))
    assert network.layer(None).startswith("resnet.encoder.stages.1")
    assert maps(network, "gradcam").isfinite().all()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "vitt"}, "no image classifier 'vitt'"),
        ({"model_type": "bert"}, "no image classifier 'bert'"),
        ({"backbone": "resnet50"}, "backbone: 'resnet50' is not allowed"),
        ({"use_pretrained_backbone": True}, "is not allowed: it fetches"),
        ({"backbone_config": {"use_pretrained_backbone": True}}, "use_pretrained_backbone: True is not allowed"),
        ({"auto_map": {"AutoConfig": "code--Mine"}}, "auto_map: .* is not allowed"),
        ({"attn_implementation": "flash_attention_2"}, "attn_implementation: .* is not allowed"),
        ({"name_or_path": "google/vit"}, "name_or_path: 'google/vit' is not allowed"),
        ({"num_labels": "three"}, "num_labels"),
    ],
)
def test_what_is_not_there_or_fetches_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_module(config("vit", **changes), save({"weight": torch.zeros(1)}))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ConfigurationError, match=r"pip install cohortlens\[transformers\]"):
        load_module(config("vit"), save({"weight": torch.zeros(1)}))
