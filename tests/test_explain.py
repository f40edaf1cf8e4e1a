"""Images in memory are explained as a run explains them, and the module stays as it was."""

import copy
from collections.abc import Callable
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import cohortlens
from cohortlens import explain
from models import forms
from models.errors import ConfigurationError
from models.explainers.saliency import Saliency
from models.loading import load_module
from models.network import Network
from models.questions import Answer
from models.targets import Classes
from tasks.storage.location import Location
from tests.models.test_forms import IMAGES, MAKE, Small, small
from tests.tasks.outputs import NETWORK, Cohort, squares_model


@pytest.mark.parametrize(
    ("network", "fields"),
    [
        ({}, {}),
        ({"last_act": "softmax"}, {"outputs": "probabilities"}),
        ({"last_act": "sigmoid", "classes": 1}, {"outputs": "probabilities", "activation": "sigmoid"}),
        ({"classes": 1}, {"activation": "sigmoid", "output": None}),
    ],
)
def test_a_notebook_gives_what_a_run_stores(network: dict[str, Any], fields: dict[str, Any], tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", range(5))
    cohort.model = squares_model(cohort.folder, ("a", "b"), NETWORK | network) | fields
    explainers: list[Any] = ["saliency", {"name": "smoothgrad", "samples": 2}, "expected_gradients"]
    target = {"name": "predicted", "k": 2}
    changes = {"explainers": explainers, "target": target}
    config = cohortlens.load(cohort.content(Location(url=str(tmp_path / "out")), **changes))
    cohortlens.run(config)
    stored = cohortlens.open_output(tmp_path / "out").load()
    module = load_module(config.model, config.model.weights.read())
    images = np.stack([np.load(cohort.folder / f"{number}.npy")[None] for number in cohort.numbers])
    found = explain(
        module,
        images,
        explainers,
        classes=config.model.classes,
        target=target,
        batch_size=3,
        ids=stored.image_id.values.tolist(),
        background=stored.background.values,
        **fields,
    )
    assert np.allclose(stored.probability.sum("class"), 1, atol=1e-6)
    for name in ("logit", "probability", "target_class", "image_flags", "map_flags"):
        assert found[name].dims == stored[name].dims and found[name].dtype == stored[name].dtype
        assert found[name].attrs.keys() == stored[name].attrs.keys()
        np.testing.assert_allclose(found[name].values, stored[name].values, rtol=1e-6)
    assert found.attribution.dims == stored.attribution.dims
    for name in found.attribution.coords:
        assert found[name].values.tolist() == stored[name].values.tolist()
    np.testing.assert_allclose(found.attribution, stored.attribution, rtol=2**-8)  # rounded when it was stored


def test_the_gradient_is_that_of_autograd_whatever_holds_the_images() -> None:
    module, inputs = small(), IMAGES.clone().requires_grad_()
    module(inputs)[:, 1].sum().backward()
    assert inputs.grad is not None
    for images in (IMAGES, IMAGES.numpy(), IMAGES.tolist(), IMAGES.double()):
        found = explain(module, images, Saliency(), target=Classes(classes=("1",)))
        np.testing.assert_allclose(found.attribution[:, 0, 0], inputs.grad[:, 0], rtol=1e-4, atol=1e-7)
        assert found.target.values.tolist() == ["1"] and found["class"].values.tolist() == ["0", "1"]


def test_an_explainer_of_ones_own_is_taken() -> None:
    class Squared(Saliency):
        def attribute(self, answer: Answer, network: Network) -> Tensor:
            return super().attribute(answer, network) ** 2

    found = explain(small(), IMAGES, [Saliency(), Squared(label="squared")])
    saliency, squared = (found.attribution.sel(explainer=name).values for name in ("saliency", "squared"))
    np.testing.assert_allclose(squared, saliency**2, rtol=1e-6)


def test_the_module_stays_as_it_was() -> None:
    module = small().train().to(memory_format=torch.contiguous_format)
    module.head.weight.requires_grad_(False)
    module.head.register_forward_hook(lambda *_: None)
    before = copy.deepcopy(module)
    strides = [parameter.stride() for parameter in module.parameters()]
    explain(module, IMAGES, ("saliency", "gradcam", "occlusion"))
    assert module.training and all(part.training for part in module.modules())
    assert [parameter.requires_grad for parameter in module.parameters()] == [
        parameter.requires_grad for parameter in before.parameters()
    ]
    assert [parameter.stride() for parameter in module.parameters()] == strides
    assert [type(part) for part in module.modules()] == [type(part) for part in before.modules()]
    assert all(len(part._forward_hooks) == (part is module.head) for part in module.modules())
    assert all(parameter.grad is None for parameter in module.parameters())
    for name, value in before.state_dict().items():
        assert torch.equal(module.state_dict()[name], value)


@pytest.mark.parametrize("form", MAKE)
def test_a_module_of_any_form_is_explained(form: str) -> None:
    data = MAKE[form]()
    recognised = forms.recognise(data)
    assert recognised is not None
    module = recognised.load(data)
    expected = explain(small(), IMAGES, "occlusion")
    np.testing.assert_allclose(explain(module, IMAGES, "occlusion").attribution, expected.attribution, atol=1e-5)
    if form == "ONNX":
        with pytest.raises(ConfigurationError, match="saliency: needs gradients, which the form ONNX"):
            explain(module, IMAGES, "saliency")


def test_windows_of_images_are_those_that_a_configuration_names() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.Tanh(), nn.Flatten(), nn.Linear(3 * 64, 2))
    images = torch.randn(2, 1, 14, 11, dtype=torch.float64)
    about: dict[str, Any] = {"classes": ("a", "b"), "target": {"name": "classes", "classes": ["b"]}}
    found = explain(module.double(), images, input_shape=[8, 8], windows={"overlap": 0.5, "pool": {"top": 2}}, **about)
    pixels = images.clone().requires_grad_()
    logits = torch.stack([module(pixels[..., y : y + 8, x : x + 8]) for y in (0, 4, 6) for x in (0, 3)])
    (gradient,) = torch.autograd.grad(logits[..., 1].topk(2, dim=0).values.mean(0).sum(), pixels)
    np.testing.assert_allclose(found.attribution.values[:, 0, 0], gradient[:, 0].float(), rtol=1e-6)
    with pytest.raises(ConfigurationError, match="windows: state input_shape"):
        explain(module, images, windows={"overlap": 0.5}, **about)
    with pytest.raises(ConfigurationError, match=r"does not take an image of shape .* \(images, input_shape\)"):
        explain(module, images, **about)
    with pytest.raises(ConfigurationError, match=r"windows\.overlap"):
        explain(module, images, input_shape=[8, 8], windows={"overlap": 1.5}, **about)


def test_masks_are_those_of_the_region() -> None:
    torch.manual_seed(0)
    module = nn.Conv2d(1, 2, 3, padding=1)
    masks = torch.zeros(3, *IMAGES.shape[2:], dtype=torch.bool)
    masks[0, 3:5, 4:6] = masks[1, 2, 2] = True
    target = {"name": "region", "classes": ["1"], "of": "mask"}
    found = explain(module, IMAGES, target=target, masks=masks)
    inputs = IMAGES.clone().requires_grad_()
    (module(inputs)[:, 1] * masks).sum().backward()
    assert inputs.grad is not None
    np.testing.assert_allclose(found.attribution[:2, 0, 0], inputs.grad[:2, 0], atol=1e-6)
    assert found.target_class.values[:, 0].tolist() == [1, 1, -1] and np.isnan(found.attribution[2]).all()


def kept() -> nn.Module:
    module = small()
    module.last = module.head.weight * 2  # type: ignore[assignment]
    return module


REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "no module": (lambda: explain(len, IMAGES), "module: a torch module"),  # type: ignore[arg-type]
    "a module that cannot be copied": (lambda: explain(kept(), IMAGES), "module: Small cannot be copied"),
    "half precision": (lambda: explain(small().half(), IMAGES), r"module: it computes in torch\.float16"),
    "one image without its axis": (lambda: explain(small(), IMAGES[0]), r"images: \(image, channel, .*12, 10"),
    "no images": (lambda: explain(small(), IMAGES[:0]), "images: "),
    "names": (lambda: explain(small(), ["a"]), "images: "),
    "too many channels": (lambda: explain(small(), IMAGES.repeat(1, 2, 1, 1)), r"does not take .*\(images, input_"),
    "an explainer that is not there": (
        lambda: explain(small(), IMAGES, ["salency"]), r"explainers\.0: there is no 'salency'"
    ),
    "a parameter that is not there": (
        lambda: explain(small(), IMAGES, [{"name": "rise", "sample": 3}]), r"explainers\.0\.rise\.sample"
    ),
    "an explainer twice": (lambda: explain(small(), IMAGES, ["rise", "rise"]), "explainers: named more than"),
    "a class too many": (lambda: explain(small(), IMAGES, classes=["a", "b", "c"]), r"each of classes \['a'"),
    "a target that is not there": (
        lambda: explain(small(), IMAGES, target={"name": "classes", "classes": ["x"]}), r"target names \['x'\]"
    ),
    "an activation": (lambda: explain(small(), IMAGES, activation="tanh"), "activation: "),  # type: ignore[arg-type]
    "a batch of none": (lambda: explain(small(), IMAGES, batch_size=0), "batch_size: "),
    "ids that repeat": (lambda: explain(small(), IMAGES, ids=["a", "b", "a"]), "ids: .* 2 different"),
    "masks of another shape": (lambda: explain(small(), IMAGES, masks=IMAGES), "masks: shape"),
    "no background": (lambda: explain(small(), IMAGES, "deepshap"), "background: deepshap compares"),
    "another background": (
        lambda: explain(small(), IMAGES, "deepshap", background=IMAGES[..., 1:]), "background: each is of shape"
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_an_argument_that_cannot_be_is_named(what: str) -> None:
    call, message = REFUSED[what]
    with pytest.raises(ConfigurationError, match=message):
        call()


class Fused(Small):
    """A network whose logits depend on a record as well."""

    def __init__(self) -> None:
        super().__init__()
        self.record = nn.Linear(2, 2)

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        return super().forward(images) * self.record(record).sigmoid()


def fused() -> Fused:
    torch.manual_seed(2)
    return Fused().eval()


RECORD = torch.tensor([[1.0, 0.5], [-1.0, 2.0], [0.3, 0.0]])


def exported_with_record() -> nn.Module:
    batch = torch.export.Dim("batch")
    file = BytesIO()
    program = torch.export.export(fused(), (IMAGES, RECORD), dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(program, file)
    return forms.exported.load(file.getvalue())


WITH_RECORD: dict[str, Callable[[], nn.Module]] = {
    "PyTorch": fused,
    "exported program": exported_with_record,
    "traced": lambda: torch.jit.trace(fused(), (IMAGES, RECORD)),
}


@pytest.mark.parametrize("form", WITH_RECORD)
def test_a_record_is_explained_beside_the_images(form: str) -> None:
    fields = ["age", {"name": "dose", "baseline": 0.25}]
    explainers: list[Any] = ["input_x_gradient", "occlusion"]
    target = {"name": "classes", "classes": ["1"]}
    found = explain(WITH_RECORD[form](), IMAGES, explainers, target=target, record=RECORD.numpy(), fields=fields)
    record = RECORD.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(fused()(IMAGES, record)[:, 1].sum(), record)
    np.testing.assert_allclose(found.attribution_record[:, 0, 0], RECORD * gradient, rtol=1e-4, atol=1e-6)
    without = RECORD.clone()
    without[:, 1] = 0.25
    with torch.no_grad():
        drop = (fused()(IMAGES, RECORD) - fused()(IMAGES, without))[:, 1]
    np.testing.assert_allclose(found.attribution_record.isel(target=0).sel(explainer="occlusion", field="dose"), drop,
                               rtol=1e-4, atol=1e-6)  # fmt: skip
    assert found.field.values.tolist() == ["age", "dose"] and found.modality.values.tolist() == ["image", "record"]
    numbered = explain(WITH_RECORD[form](), IMAGES, record=RECORD)
    assert numbered.field.values.tolist() == ["0", "1"]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "takes a second input .* in record"),
        ({"record": RECORD[:2]}, r"record: finite numbers of shape \(3, 2\) are taken"),
        ({"record": RECORD[:, :1], "fields": ["age", "dose"]}, r"found shape \(3, 1\)"),
        ({"record": RECORD * torch.nan}, "record: finite numbers"),
        ({"fields": ["age", "dose"]}, r"found shape \(3, 0\)"),
        ({"record": RECORD, "fields": ["age", {"name": "dose", "unit": "mg"}]}, "unit"),
    ],
)
def test_records_that_do_not_fit_are_refused(arguments: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        explain(fused(), IMAGES, classes=("a", "b"), **arguments)
