"""The names that a configuration may hold, and the content of weights."""

import os
import pickle
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch

from models import network, preprocessing
from models.components import instantiate, locate
from models.network import NetworkConfig, build

NETWORKS = network.NAMESPACES
TRANSFORMS = preprocessing.NAMESPACES


@pytest.mark.parametrize(
    ("target", "namespaces"),
    [
        ("monai.networks.nets.DenseNet121", NETWORKS),
        ("models.networks.AttentionGatedClassifier", NETWORKS),
        ("torch.nn.Linear", NETWORKS),
        ("monai.transforms.Resize", TRANSFORMS),
    ],
)
def test_what_is_meant_to_be_named_can_be(target: str, namespaces: tuple[str, ...]) -> None:
    assert callable(locate({"_target_": target}, namespaces))


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "builtins.eval",
        "subprocess.run",
        "monai.networks.netsx.DenseNet",
        "monai.networks.nets..os.system",
        "torch.load",
        "torch.hub.load",
        "torch.nn.modules.module.warnings",
        "torch.nn.parallel.data_parallel.chain",  # of itertools
        "models.networks.attention_gated.torch",
        "models.training.train",
    ],
)
def test_what_lies_elsewhere_or_was_only_imported_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"is not allowed here|cannot be imported"):
        locate({"_target_": target}, NETWORKS)


class Trap:
    """Makes a folder when it is unpickled."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.folder),)


def pickled(content: object) -> bytes:
    return pickle.dumps(content)


def saved(content: object) -> bytes:
    sink = BytesIO()
    torch.save(content, sink)
    return sink.getvalue()


def saved_before_zip(content: object) -> bytes:
    sink = BytesIO()
    torch.save(content, sink, _use_new_zipfile_serialization=False)
    return sink.getvalue()


@pytest.mark.parametrize("write", [pickled, saved, saved_before_zip])
@pytest.mark.parametrize(
    "wrap", [lambda trap: trap, lambda trap: {"state_dict": {"weight": trap}}], ids=["bare", "within"]
)
def test_weights_are_never_unpickled(write: Any, wrap: Any, tmp_path: Path) -> None:
    sprung = tmp_path / "sprung"
    data = write(wrap(Trap(sprung)))
    torch.load(BytesIO(data), weights_only=False) if write is not pickled else pickle.loads(data)
    sprung.rmdir()  # fails if the trap does not work
    config = NetworkConfig(
        network={"_target_": "torch.nn.Linear", "in_features": 2, "out_features": 2},
        classes=("a", "b"),
        input_shape=(1, 2),
    )
    with pytest.raises(ValueError, match="the weights"):
        build(config, data)
    assert not sprung.exists()


def test_arguments_that_do_not_fit_are_named() -> None:
    component = {"_target_": "torch.nn.Linear", "width": 3}
    with pytest.raises(ValueError, match="width"):
        instantiate(component, locate(component, NETWORKS))
