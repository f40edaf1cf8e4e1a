"""Networks of timm are made without weights. The timm here is a stand-in: the real one needs torchvision."""

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch import nn

from models.errors import ConfigurationError
from models.loading import build, load_module
from models.network_config import NetworkConfig


def create_model(model_name: str, pretrained: bool = False, checkpoint_path: str = "", **arguments: Any) -> nn.Module:
    assert pretrained is False and checkpoint_path == "" and "pretrained_cfg" not in arguments
    torch.manual_seed(0)
    layers = [nn.Conv2d(arguments["in_chans"], 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(4, arguments["num_classes"]))


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    known = SimpleNamespace(create_model=create_model, is_model=lambda name: name == "resnet18", __version__="1.0")
    monkeypatch.setitem(sys.modules, "timm", known)


def config(**changes: Any) -> NetworkConfig:
    network = {"_target_": "models.networks.Timm", "model_name": "resnet18", "in_chans": 1, "num_classes": 2}
    return NetworkConfig(network=network | changes, classes=("a", "b"), input_shape=(8, 8))


def test_a_network_is_made_and_filled_with_its_state_dict() -> None:
    theirs = create_model("resnet18", in_chans=1, num_classes=2).eval()
    images = torch.randn(2, 1, 8, 8)
    assert torch.allclose(build(config(), save(theirs.state_dict()))(images), theirs(images), atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"pretrained": True}, "pretrained: True is not allowed"),
        ({"pretrained_cfg": {"url": "x"}}, "pretrained_cfg: .* is not allowed"),
        ({"pretrained_cfg": "a1_in1k"}, "pretrained_cfg: .* is not allowed"),
        ({"checkpoint_path": "weights"}, "checkpoint_path is not allowed"),
        ({"cache_dir": "there"}, "cache_dir is not allowed"),
        ({"model_name": "hf-hub:timm/resnet18"}, "is not allowed"),
        ({"model_name": "hf-hub:resnet18"}, "a name of timm's registry alone"),
        ({"model_name": "hf_hub:resnet18"}, "a name of timm's registry alone"),
        ({"model_name": "local-dir:resnet18"}, "a name of timm's registry alone"),
        ({"model_name": "resnet18.a1_in1k"}, "is not allowed"),
        ({"model_name": "resnet19"}, "has no network 'resnet19'"),
    ],
)
def test_what_is_not_there_or_fetches_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        load_module(config(**changes), save({"weight": torch.zeros(1)}))


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ConfigurationError, match="it needs timm and torchvision"):
        load_module(config(), save({"weight": torch.zeros(1)}))
