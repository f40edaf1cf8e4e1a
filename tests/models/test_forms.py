"""Every form of one network gives the maps of the plain module, or says why not; none runs code that it holds."""

import hashlib
import json
import pickle
import re
import zipfile
from collections.abc import Callable
from functools import cache
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
import torch
from monai.networks.nets import DenseNet
from torch import Tensor, nn

from models import forms
from models.capability import RULES
from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS, Explainer, MapExplainer
from models.explainers.lrp import COMPOSITES
from models.forms import exported
from models.loading import build
from models.metrics import METRICS
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier
from models.targets import Classes
from tests.models.networks import STANDARD

SHAPE = (12, 10)
CONFIG = NetworkConfig(classes=("a", "b"), input_shape=SHAPE)


class Small(nn.Module):
    """A network on which most explainers work."""

    def __init__(self) -> None:
        super().__init__()
        layers = [nn.Conv2d(1, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()]
        self.features = nn.Sequential(*layers)
        self.head = nn.Linear(6, 2)
        self.register_buffer("scale", torch.linspace(1, 2, 6), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.features(images).mean((2, 3)) * self.scale)


def small() -> Small:
    torch.manual_seed(0)
    return Small().eval()


IMAGES = torch.randn(3, 1, *SHAPE, generator=torch.Generator().manual_seed(1))
WIDE = torch.randn(3, 1, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
BATCH = ({0: torch.export.Dim("batch")},)


def as_exported(module: nn.Module, images: Tensor = IMAGES, **options: Any) -> bytes:
    file = BytesIO()
    torch.export.save(torch.export.export(module, (images,), **{"dynamic_shapes": BATCH, **options}), file)
    return file.getvalue()


def as_onnx(module: nn.Module, images: Tensor = IMAGES, **options: Any) -> bytes:
    file = BytesIO()
    program = torch.onnx.export(module, (images,), dynamo=True, verbose=False, **{"dynamic_shapes": BATCH, **options})
    assert program is not None
    program.save(file)
    return file.getvalue()


def as_torchscript(module: nn.Module) -> bytes:
    file = BytesIO()
    torch.jit.save(module, file)
    return file.getvalue()


MAKE: dict[str, Callable[[], bytes]] = {
    "exported program": lambda: as_exported(small()),
    "ONNX": lambda: as_onnx(small()),
    "scripted": lambda: as_torchscript(torch.jit.script(small())),
    "traced": lambda: as_torchscript(torch.jit.trace(small(), IMAGES)),
}


@pytest.fixture(scope="module")
def files() -> dict[str, bytes]:
    return {name: make() for name, make in MAKE.items()}


def network_of(data: bytes, **changes: Any) -> Network:
    digest = hashlib.sha256(data).hexdigest()
    return build(CONFIG.model_copy(update={"sha256": digest} | changes), data)


MAKERS_OF_MAPS = sorted(name for name, kind in STANDARD.items() if issubclass(kind, MapExplainer))
OF_ATTENTION = (
    "saliency",
    "integrated_gradients",
    "gradcam",
    "lrp",
    "deeplift",
    "guided_backprop",
    "occlusion",
    "rise",
)


def kind_of(name: str) -> Explainer:
    return EXPLAINERS.adapter.validate_python({"name": name})


def explained(network: Network, explainer: Explainer, images: Tensor = IMAGES) -> Tensor:
    engine = Engine(network, [explainer], Classes(classes=("b",)), 4, {"background": images})
    return engine.explain(images, ["a", "b", "c"]).maps


@pytest.mark.parametrize("form", MAKE)
@pytest.mark.parametrize("name", sorted(name for name, kind in STANDARD.items() if issubclass(kind, MapExplainer)))
def test_a_form_gives_the_maps_of_the_module_or_refuses(form: str, name: str, files: dict[str, bytes]) -> None:
    network, plain = network_of(files[form]), Network(small(), CONFIG)
    explainer = EXPLAINERS.adapter.validate_python({"name": name})
    if explainer.requires <= forms.capabilities(network.module):
        try:
            expected = explained(plain, explainer)
        except ConfigurationError:
            with pytest.raises(ConfigurationError):
                explained(network, explainer)
            return
        assert torch.allclose(
            explained(network, explainer), expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())
        )
    else:
        with pytest.raises(ConfigurationError, match=f"{name}: needs .* use an explainer that only asks"):
            explained(network, explainer)


class Gated(nn.Module):
    """Each place is weighted by its largest channel."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * inputs.amax(1, keepdim=True).sigmoid()


WITH_RULES: dict[str, Callable[[], nn.Module]] = {
    "gated": lambda: nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.ReLU(), Gated(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    ),
    "in place": lambda: nn.Sequential(
        *(nn.Conv2d(1, 6, 3, padding="same"), nn.ReLU(inplace=True), nn.MaxPool2d(2), nn.Conv2d(6, 8, 3, groups=2)),
        *(nn.LeakyReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(), nn.Linear(8, 2)),
    ),
    "DenseNet": lambda: DenseNet(2, 1, 2, init_features=4, growth_rate=4, block_config=(2, 2)),
    "norms": lambda: nn.Sequential(
        *(nn.Conv2d(1, 6, 3), nn.GroupNorm(2, 6), nn.ReLU(), nn.ConvTranspose2d(6, 4, 2, 2), nn.BatchNorm2d(4)),
        *(nn.ReLU(), nn.InstanceNorm2d(4, affine=True), nn.Upsample(scale_factor=2), nn.AvgPool2d(2)),
        *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(4), nn.Linear(4, 2)),
    ),
}
WITH_RULES |= {
    f"{activation.__name__} in place": lambda activation=activation: nn.Sequential(
        *(nn.Conv2d(1, 6, 3), activation(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
    )
    for activation in (nn.SiLU, nn.Mish, nn.Hardswish, nn.Hardtanh, nn.ReLU6, nn.CELU, nn.SELU, nn.ELU)
}
RULES_OF = [*((name, {}) for name, kind in EXPLAINERS.kinds.items() if kind.requires >= RULES)]
RULES_OF += [("lrp", {"composite": one}) for one in COMPOSITES]
RULES_OF += [("lrp", {"rules": [{"rule": "gamma", "layers": "0"}]})]  # by the name of a layer


@pytest.mark.parametrize("network", WITH_RULES)
@pytest.mark.parametrize(("name", "parameters"), RULES_OF)
def test_rules_on_an_exported_program_are_those_on_the_module(
    network: str, name: str, parameters: dict[str, Any]
) -> None:
    plain, program = exported_pair(network)
    explainer = EXPLAINERS.adapter.validate_python({"name": name, **parameters})
    try:
        expected = explained(plain, explainer, WIDE)
    except ConfigurationError as error:
        with pytest.raises(ConfigurationError, match=re.escape(str(error)[-40:])):
            explained(program, explainer, WIDE)
        return
    found = explained(program, explainer, WIDE)
    apart = (found - expected).flatten(1).norm(dim=1) / expected.flatten(1).norm(dim=1).clamp_min(1e-30)
    assert float(apart.median()) < 1e-12


@cache
def exported_pair(name: str) -> tuple[Network, Network]:
    """A network with norms that matter, in double precision, and what it is exported as."""
    torch.manual_seed(1)
    module = WITH_RULES[name]().double().eval()
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.normal_(part.bias)
            nn.init.normal_(part.running_mean)
            nn.init.uniform_(part.running_var, 0.5, 1.5)
    config = CONFIG.model_copy(update={"input_shape": tuple(WIDE.shape[2:])})
    program = build(config, as_exported(module, WIDE))
    return Network(module, config), program


@pytest.mark.parametrize("form", MAKE)
def test_metrics_that_change_weights_are_refused(form: str, files: dict[str, bytes]) -> None:
    network = network_of(files[form])
    for name, kind in METRICS.kinds.items():
        metric = METRICS.adapter.validate_python({"name": name})
        if "randomisation" in name and name != "label_randomisation":
            assert kind.requires
            with pytest.raises(ConfigurationError, match="weights that can be changed"):
                network.require(metric.title, metric.requires)


@pytest.fixture(scope="module")
def attention() -> tuple[nn.Module, dict[str, bytes]]:
    torch.manual_seed(0)
    plain = AttentionGatedClassifier(spatial_dims=2, in_channels=1, num_classes=2, features=(4, 4, 8, 8)).eval()
    images = torch.randn(2, 1, 16, 16)
    made = {
        "exported program": as_exported(plain, images),
        "ONNX": as_onnx(plain, images=images),
        "traced": as_torchscript(torch.jit.trace(plain, images)),
    }
    return plain, made


@pytest.mark.parametrize("form", ["exported program", "ONNX", "traced"])
def test_our_attention_network_has_its_maps_in_every_form(
    form: str, attention: tuple[nn.Module, dict[str, bytes]]
) -> None:
    plain, made = attention
    images = torch.randn(3, 1, 16, 16, generator=torch.Generator().manual_seed(3))
    network = network_of(made[form], input_shape=(16, 16))
    like = Network(forms.copied(plain), CONFIG.model_copy(update={"input_shape": (16, 16)}))
    offered = [kind for kind in map(kind_of, OF_ATTENTION) if kind.requires <= network.capabilities]
    assert offered
    for explainer in offered:
        found, expected = explained(network, explainer, images), explained(like, explainer, images)
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


def test_a_copy_of_a_form_answers_as_it_does(attention: tuple[nn.Module, dict[str, bytes]]) -> None:
    plain, made = attention
    images = torch.randn(2, 1, 16, 16)
    for name in ("exported program", "traced"):
        form = forms.recognise(made[name])
        assert form is not None
        torch.testing.assert_close(forms.copied(form.load(made[name]))(images), plain(images))


def test_torchscript_is_read_only_with_its_digest(files: dict[str, bytes]) -> None:
    data = files["traced"]
    with pytest.raises(ConfigurationError, match=f"sha256: .* if you trust it, {hashlib.sha256(data).hexdigest()}"):
        build(CONFIG, data)


@pytest.mark.parametrize("form", MAKE)
def test_a_class_beside_a_file_that_holds_the_network_is_refused(form: str, files: dict[str, bytes]) -> None:
    with pytest.raises(ConfigurationError, match=r"model\.network: leave it out"):
        network_of(files[form], network={"_target_": "torch.nn.Flatten"})


def test_weights_without_a_class_are_refused() -> None:
    file = BytesIO()
    torch.save(small().state_dict(), file)
    with pytest.raises(ConfigurationError, match=r"model\.network: name the class"):
        build(CONFIG, file.getvalue())


@pytest.mark.parametrize("make", [as_exported, as_onnx])
def test_a_batch_of_one_size_is_refused(make: Callable[..., bytes]) -> None:
    with pytest.raises(ConfigurationError, match=r"dynamic|batch"):
        network_of(make(small(), dynamic_shapes=None))


@pytest.mark.parametrize("kept", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("form", MAKE)
def test_a_file_that_is_cut_short_is_refused(form: str, kept: float, files: dict[str, bytes]) -> None:
    with pytest.raises(ConfigurationError):
        network_of(files[form][: int(kept * len(files[form]))])


class Harm:
    """Leaves a file if it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return open, (str(self.mark), "w")


def changed(data: bytes, change: Callable[[str, bytes], bytes], **more: bytes) -> bytes:
    """Rewrite the entries of an archive, and add some."""
    file = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            copy.writestr(name, change(name, archive.read(name)))
        for name, content in more.items():
            copy.writestr(f"archive/{name}", content)
    return file.getvalue()


def in_graph(change: Callable[[dict[str, Any]], None]) -> Callable[[bytes, Path], bytes]:
    def attack(data: bytes, mark: Path) -> bytes:
        def rewrite(name: str, content: bytes) -> bytes:
            if not name.endswith("models/model.json"):
                return content
            program = json.loads(content.decode())
            change(program)
            return json.dumps(program).replace("MARK", str(mark)).encode()

        return changed(data, rewrite)

    return attack


def first_node(program: dict[str, Any]) -> dict[str, Any]:
    node: dict[str, Any] = program["graph_module"]["graph"]["nodes"][0]
    return node


def call(name: str, target: str, *inputs: dict[str, Any], **named: dict[str, Any]) -> dict[str, Any]:
    """Make a node that calls something, and hands its result on as if it were a tensor."""
    return {
        "target": target,
        "inputs": [
            {"name": key, "arg": one, "kind": 1} for key, one in [*(("", one) for one in inputs), *named.items()]
        ],
        "outputs": [{"as_tensor": {"name": name}}],
        "name": name,
    }


def tensor(name: str) -> dict[str, Any]:
    return {"as_tensor": {"name": name}}


def text(value: str) -> dict[str, Any]:
    return {"as_string": value}


def calls(*nodes: dict[str, Any]) -> Callable[[dict[str, Any]], None]:
    """Put nodes before the first one, which takes what the last of them returns."""

    def change(program: dict[str, Any]) -> None:
        graph = program["graph_module"]["graph"]
        first, values = graph["nodes"][0], graph["tensor_values"]
        graph["nodes"] = [*({**node, "metadata": first["metadata"]} for node in nodes), *graph["nodes"]]
        first["inputs"][0]["arg"] = tensor(nodes[-1]["name"])
        values |= {node["name"]: values["images"] for node in nodes}

    return change


OPENS = calls(
    call("find", "_operator.attrgetter", text("split.__globals__")),
    call("names", "_operator.call", tensor("find"), tensor("images")),
    call("builtins", "_operator.getitem", tensor("names"), text("__builtins__")),
    call("opens", "_operator.getitem", tensor("builtins"), text("open")),
    call("file", "_operator.call", tensor("opens"), text("MARK"), text("w")),
)
"""Opens a file by functions of Python's `operator`."""


def set_expression(text: str) -> Callable[[dict[str, Any]], None]:
    def change(program: dict[str, Any]) -> None:
        sizes = program["graph_module"]["graph"]["tensor_values"]["images"]["sizes"]
        sizes[0]["as_expr"]["expr_str"] = text

    return change


def set_tree(kind: str, context: str) -> Callable[[dict[str, Any]], None]:
    def change(program: dict[str, Any]) -> None:
        spec = [1, {"type": kind, "context": context, "children_spec": []}]
        program["graph_module"]["module_call_graph"][0]["signature"]["in_spec"] = json.dumps(spec)

    return change


def pickled_weight(data: bytes, mark: Path) -> bytes:
    def rewrite(name: str, content: bytes) -> bytes:
        if name.endswith("model_weights_config.json"):
            return content.replace(b'"use_pickle": false', b'"use_pickle": true', 1)
        return pickle.dumps(Harm(mark)) if name.endswith("weights/weight_0") else content

    return changed(data, rewrite)


def opaque_constant(data: bytes, mark: Path) -> bytes:
    def rewrite(name: str, content: bytes) -> bytes:
        if not name.endswith("model_constants_config.json"):
            return content
        entry = {"path_name": "opaque_obj_0", "is_param": False, "use_pickle": False, "tensor_meta": None}
        return json.dumps({"config": {"scale": entry}}).encode()

    return changed(data, rewrite, **{"data/constants/opaque_obj_0": pickle.dumps(Harm(mark))})


def pickled_sample(data: bytes, mark: Path) -> bytes:
    return changed(data, lambda name, content: pickle.dumps(Harm(mark)) if "sample_inputs" in name else content)


ATTACKS: dict[str, Callable[[bytes, Path], bytes]] = {
    "a pickled weight": pickled_weight,
    "a pickled constant": opaque_constant,
    "pickled sample inputs": pickled_sample,
    "compiled code": lambda data, mark: changed(
        data, lambda name, content: content, **{"data/aotinductor/model/x.so": b""}
    ),
    "an expression that calls": in_graph(set_expression("__import__('os').system('touch MARK')")),
    "an expression with chr": in_graph(set_expression("getattr(Symbol, chr(95)*2+chr(99))")),
    "an expression with an attribute": in_graph(set_expression("s77.func")),
    "an operation of Python": in_graph(lambda program: first_node(program).update(target="torch.hub.load")),
    "an operation of another library": in_graph(
        lambda program: first_node(program).update(target="torch.ops.mylib.conv.default")
    ),
    "a name with code": in_graph(lambda program: first_node(program).update(name="x = __import__('os')")),
    "a call by Python's operator": in_graph(OPENS),
    "an attribute of the operations": in_graph(
        calls(call("x", "torch.ops.aten.__getattribute__.__call__", text("op")))
    ),
    "an operation that writes a file": in_graph(
        calls(call("x", "torch.ops.aten.save.default", item=tensor("images"), filename=text("MARK")))
    ),
    "an operation that maps a file": in_graph(
        calls(
            call(
                "x",
                "torch.ops.aten.from_file.default",
                filename=text("MARK"),
                shared={"as_bool": True},
                size={"as_int": 10},
            ),
            call("y", "torch.ops.aten.add.Tensor", self=tensor("images"), other=tensor("x")),
        )
    ),
    "a tree that imports": in_graph(
        set_tree("collections.defaultdict", '{"default_factory_module": "antigravity", "default_factory_name": "x"}')
    ),
}


@pytest.mark.parametrize("attack", ATTACKS)
def test_an_exported_program_that_holds_more_than_a_graph_is_refused(
    attack: str, files: dict[str, bytes], tmp_path: Path
) -> None:
    mark = tmp_path / "harm"
    with pytest.raises(ConfigurationError, match="the exported program is not read"):
        exported.load(ATTACKS[attack](files["exported program"], mark))(IMAGES)
    assert not mark.exists()


def test_guards_of_an_exported_program_are_left_out(files: dict[str, bytes], tmp_path: Path) -> None:
    mark = tmp_path / "harm"
    guarded = in_graph(lambda program: program.update(guards_code=["open('MARK', 'w')"]))
    module = exported.load(guarded(files["exported program"], mark))
    assert torch.allclose(module(IMAGES), small()(IMAGES), atol=1e-6)
    assert not mark.exists()


def test_an_onnx_model_whose_inner_graph_names_other_files_is_refused() -> None:
    from onnx import TensorProto, helper

    outside = TensorProto(name="scale", data_type=1, dims=[1, 1, 1, 1], data_location=TensorProto.EXTERNAL)
    outside.external_data.add(key="location", value="passwords")
    image, scaled = (helper.make_tensor_value_info(name, 1, ["batch", 1, *SHAPE]) for name in ("image", "scaled"))
    inner = helper.make_graph([helper.make_node("Mul", ["image", "scale"], ["scaled"])], "", [], [scaled], [outside])
    always = helper.make_tensor("always", 9, [], [True])
    choice = helper.make_node("If", ["always"], ["scaled"], then_branch=inner, else_branch=inner)
    model = helper.make_model(helper.make_graph([choice], "", [image], [scaled], [always]))
    with pytest.raises(ConfigurationError, match="keeps 2 tensors in other files, such as 'scale'"):
        network_of(model.SerializeToString())


def test_an_onnx_model_that_names_other_files_is_refused(tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(as_onnx(small()))
    path = tmp_path / "model.onnx"
    onnx.save(model, path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    with pytest.raises(ConfigurationError, match=r"keeps .* in other files"):
        network_of(path.read_bytes())
