"""The names that a configuration may hold, and the content of weights."""

import os
import pickle
import sys
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models import loading, preprocessing
from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.loading import build
from models.network_config import NetworkConfig

NETWORKS = loading.NAMESPACES
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


def network(target: str, /, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "network", {"_target_": target, **arguments}


def transform(name: str, /, **arguments: Any) -> tuple[str, dict[str, Any]]:
    return "transform", {"_target_": f"monai.transforms.{name}", **arguments}


NETS = "monai.networks.nets"
DENSE = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}

ATTACKS = [
    network("os.system", command="touch SENTINEL"),
    network("builtins.exec", source="open('SENTINEL', 'w')"),
    network("subprocess.getoutput", cmd="touch SENTINEL"),
    network("pathlib.Path.touch", self="SENTINEL"),
    network(f"{NETS}.os.system", command="touch SENTINEL"),
    network(f"{NETS}.torch.hub.load", repo_or_dir="x/y", model="z"),
    network(f"{NETS}.resnet.torch.hub.load_state_dict_from_url", url="http://SENTINEL"),
    network(f"{NETS}.resnet.get_pretrained_resnet_medicalnet", resnet_depth=10),
    network(f"{NETS}.resnet.hf_hub_download", repo_id="x/y", filename="z"),
    network(f"{NETS}.densenet.load_state_dict_from_url", url="http://SENTINEL"),
    network(f"{NETS}.DenseNet121", **DENSE, pretrained=True),
    network(f"{NETS}.EfficientNetBN", model_name="efficientnet-b0"),  # its default is to fetch
    network(f"{NETS}.EfficientNetBN", model_name="efficientnet-b0", pretrained="yes"),
    network(f"{NETS}.resnet18", pretrained=True),
    network(f"{NETS}.resnet18", pretrained="/tmp/SENTINEL"),
    network(f"{NETS}.SENet154", spatial_dims=2, in_channels=1, pretrained=1),
    network(f"{NETS}.HoVerNet", pretrained_url="http://SENTINEL"),
    network(f"{NETS}.FlexibleUNet", in_channels=1, out_channels=2, backbone="resnet18", pretrained=True),
    network(f"{NETS}.TorchVisionFCModel", model_name="resnet18", weights="DEFAULT"),
    network(f"{NETS}.MILModel", num_classes=2),
    network(f"{NETS}.Transchex", in_channels=1, img_size=[8, 8], patch_size=[4, 4], num_classes=2),
    network(f"{NETS}.DenseNet121", **DENSE, norm="http://SENTINEL"),
    network(f"{NETS}.DenseNet121", **DENSE, norm=["file:///SENTINEL"]),
    network(f"{NETS}.DenseNet121", **DENSE, act="os.system"),
    network(f"{NETS}.DenseNet121", **DENSE, act={"name": "~/SENTINEL"}),
    network(f"{NETS}.DenseNet121", **DENSE, act={"_target_": "os.system", "command": "touch SENTINEL"}),
    network(f"{NETS}.DenseNet121", **DENSE, act=[{"x": {"_target_": "torch.nn.ReLU"}}]),
    network(f"{NETS}.DenseNet121", **DENSE, act="$__import__('os').system('touch SENTINEL')"),
    network(f"{NETS}.DenseNet121", **DENSE, act="@network"),
    network(f"{NETS}.DenseNet121", **DENSE, act="..\\SENTINEL"),
    network("torch.nn.functional.relu", input=1),
    network("torch.nn.init.zeros_", tensor=1),
    network("torch.nn.utils.skip_init", module_cls="x"),
    network("torch.nn.Parameter"),
    network("torch.nn.parallel._functions.Broadcast"),
    network("torch.nn._reduction.get_enum", reduction="mean"),
    network("torch.nn.modules.module._addindent", s_="", numSpaces=1),
    network("torch.nn.Module.__init__"),
    network("torch.nn.modules.module.Any"),
    network("models.networks.attention_gated.torch.load", f="SENTINEL"),
    network("models.networks..os.system", command="touch SENTINEL"),
    network("models.networks.two lines.Net"),
    transform("os.system", command="touch SENTINEL"),
    transform("io.array.Path", args=["SENTINEL"]),
    transform("LoadImage", reader="os.system"),
    transform("SaveImage", output_dir="SENTINEL"),
    transform("WriteFileMapping", mapping_file_path="SENTINEL"),
    transform("Lambda", func="os.system"),
    transform("Lambda"),
    transform("CuCIM", name="x"),
    transform("TorchVision", name="x"),
    transform("TorchIO", name="x"),
    transform("SimulateDelay", delay_time=1000),
    transform("DataStats"),
    transform("BatchInverseTransform"),
    transform("Compose", transforms=[{"_target_": "os.system"}]),
    transform("utils.allow_missing_keys_mode"),
    transform("utility.array.optional_import", module="os"),
    transform("utility.array.look_up_option", opt_str="x", supported=[]),
    transform("Transform"),
    transform("Resize", spatial_size=[8, 8], mode="file:///SENTINEL"),
    transform("MaskIntensity", mask_data={"_target_": "numpy.load", "file": "SENTINEL"}),
]


def built(kind: str, component: dict[str, Any]) -> object:
    if kind == "transform":
        return preprocessing.Preprocessing([component]).transforms[0]
    return build(NetworkConfig(network=component, classes=("a", "b"), input_shape=(32, 32)), b"")


@pytest.mark.parametrize(("kind", "component"), ATTACKS, ids=lambda value: value if isinstance(value, str) else None)
def test_no_component_runs_code_fetches_or_opens_anything(
    kind: str, component: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(event: str, arguments: tuple[Any, ...]) -> None:
        if watching and (event in ("os.system", "subprocess.Popen", "socket.connect") or "SENTINEL" in repr(arguments)):
            did.append(event)

    watching, did = True, list[str]()
    sys.addaudithook(refuse)  # hooks stay, but this one is told when the test ends
    monkeypatch.chdir(tmp_path)
    try:
        with pytest.raises(ConfigurationError, match=r"`_target_: "):
            built(kind, component)
    finally:
        watching = False
    assert did == [] and list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("kind", "component"),
    [
        network(f"{NETS}.DenseNet121", **DENSE, pretrained=False, norm=["group", {"num_groups": 8}], act="relu"),
        network(f"{NETS}.resnet18", spatial_dims=2, n_input_channels=1, num_classes=2),  # a function of its class
        network(f"{NETS}.EfficientNetBN", model_name="efficientnet-b0", pretrained=False, in_channels=1),
        network("torch.nn.Conv2d", in_channels=1, out_channels=1, kernel_size=1, padding_mode="zeros"),
        transform("Spacing", pixdim=[1, 1], mode="bilinear", dtype="torch.float32"),
        transform("Orientation", axcodes="RAS"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_ordinary_components_are_built(kind: str, component: dict[str, Any]) -> None:
    if kind == "transform":
        assert built(kind, component)
    else:
        assert isinstance(instantiate(component, locate(component, NETWORKS, torch.nn.Module)), torch.nn.Module)


@pytest.mark.parametrize(
    ("component", "message"),
    [
        ({"_target_": "torch.nn.Linear", "in_features": -1, "out_features": 2}, "model.network: .*'in_features': -1"),
        ({"_target_": f"{NETS}.ViT", "in_channels": 1, "img_size": [5, 5], "patch_size": [4, 4]}, "ViT` with"),
        ({"_target_": f"{NETS}.DenseNet121", **DENSE, "norm": "nonsense"}, "'norm': 'nonsense'.*: .*See to"),
        ({"_target_": f"{NETS}.UNet", "spatial_dims": 2}, "UNet` with .*See to its arguments"),
    ],
)
def test_whatever_a_constructor_raises_names_field_and_value(component: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=f"(?s){message}"):
        build(NetworkConfig(network=component, classes=("a", "b"), input_shape=(32, 32)), b"")


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
    with pytest.raises(ValueError, match=r"model\.weights"):
        build(config, data)
    assert not sprung.exists()


def test_arguments_that_do_not_fit_are_named() -> None:
    component = {"_target_": "torch.nn.Linear", "width": 3}
    with pytest.raises(ValueError, match="width"):
        instantiate(component, locate(component, NETWORKS))


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The name of a module with a network and a function, which can be imported."""
    (tmp_path / "a_hospitals_nets.py").write_text(
        "from os import system\n"
        "from torch import nn\n\n\n"
        "class Net(nn.Flatten):\n    pass\n\n\n"
        "def make() -> nn.Module:\n    raise AssertionError('called')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    return "a_hospitals_nets"


def test_a_package_of_ones_own_is_what_the_machines_operator_allows(
    own_package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    component = {"_target_": f"{own_package}.Net"}

    def find() -> Any:
        return locate(component, ("torch.nn",), nn.Module, "model.network", "cohortlens.networks")

    with pytest.raises(ConfigurationError, match="or in a package that COHORTLENS_NETWORKS names on this machine"):
        find()
    monkeypatch.setenv("COHORTLENS_NETWORKS", f"others.nets, {own_package}")
    assert find().__name__ == "Net"
    for name in ("system", "make", "nn.Flatten"):
        component["_target_"] = f"{own_package}.{name}"
        with pytest.raises(ConfigurationError):
            find()


def test_entry_points_name_packages_too(own_package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    metadata = tmp_path / "hospital-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: hospital\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[cohortlens.networks]\nnets = {own_package}\n")
    found = locate({"_target_": f"{own_package}.Net"}, ("torch.nn",), nn.Module, "", "cohortlens.networks")
    assert found.__name__ == "Net"
    with pytest.raises(ConfigurationError):
        locate({"_target_": f"{own_package}.Net"}, ("torch.nn",), nn.Module, "", "cohortlens.transforms")
