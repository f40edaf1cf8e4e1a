"""A MONAI bundle gives the results of its network named plainly, and runs no code that it holds."""

import hashlib
import inspect
import json
import zipfile
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import torch
import yaml
from monai import transforms
from monai.bundle import ConfigParser
from PIL import Image
from torch import nn

import cohortlens
from flows.schema import schema
from models.bundles.archive import member
from models.bundles.bundle import Bundle
from models.bundles.references import References
from models.bundles.transforms import COUNTERPARTS
from models.errors import ConfigurationError
from models.windows import Windows
from tasks.storage.location import Location
from tests.tasks.outputs import stored

DENSENET = {
    "_target_": "DenseNet",
    "spatial_dims": 2,
    "in_channels": "@channels",
    "out_channels": 2,
    "init_features": 4,
    "growth_rate": 4,
    "block_config": "$(1, 1)",
}
CLASSIFIER: dict[str, Any] = {
    "imports": ["$import glob", "$import os"],
    "bundle_root": "$os.getcwd()",
    "device": "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')",
    "channels": 1,
    "image_key": "$monai.utils.CommonKeys.IMAGE",
    "intensity": {"minv": 0, "maxv": "$1.0"},
    "network_def": DENSENET,
    "network": "$@network_def.to(@device)",
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "@image_key", "image_only": True, "dtype": "$np.float32"},
            {"_target_": "EnsureChannelFirstd", "keys": "image"},
            {"_target_": "Rotated", "keys": "image", "angle": 1, "_disabled_": True},
            {"_target_": "Resized", "keys": ["image"], "spatial_size": [16, 12], "mode": ["bilinear"]},
            {
                "_target_": "monai.transforms.ScaleIntensityd",
                "keys": "image",
                "minv": "@intensity::minv",
                "maxv": "%intensity#maxv",
            },
            {"_target_": "EnsureTyped", "keys": "image", "device": "@device"},
        ],
    },
    "inferer": {"_target_": "SimpleInferer"},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [{"_target_": "Activationsd", "keys": "pred", "sigmoid": True}],
    },
    "evaluator": {"_target_": "os.system", "command": "touch ran"},
}
UNET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 3,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
    "norm": "batch",
}
SEGMENTATION: dict[str, Any] = {
    "network_def": UNET,
    "preprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "LoadImaged", "keys": "image", "ensure_channel_first": True},
            {"_target_": "Orientationd", "keys": "image", "axcodes": "RAS"},
            {"_target_": "Spacingd", "keys": "image", "pixdim": [1, 1, 1], "mode": "bilinear"},
            {"_target_": "SpatialPadd", "keys": "image", "spatial_size": [12, 10, 8]},
            {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0, "a_max": 2, "b_min": 0, "b_max": 1},
        ],
    },
    "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [12, 10, 8], "sw_batch_size": 4},
    "postprocessing": {
        "_target_": "Compose",
        "transforms": [
            {"_target_": "Activationsd", "keys": "pred", "softmax": True},
            {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing"},
        ],
    },
}


def metadata(shape: list[Any], *classes: str, channels: int = 1) -> dict[str, Any]:
    named = {str(number): name for number, name in enumerate(classes)}
    return {
        "version": "0.1.0",
        "network_data_format": {
            "inputs": {"image": {"type": "image", "num_channels": channels, "spatial_shape": shape}},
            "outputs": {"pred": {"type": "image", "num_channels": len(classes), "channel_def": named}},
        },
    }


FLAT, DEEP = metadata([16, 12], "normal", "lesion"), metadata(["*", "*", "*"], "background", "organ")


def module_of(network: dict[str, Any]) -> nn.Module:
    torch.manual_seed(0)
    parser = ConfigParser({"channels": 1, "network": network})
    module: nn.Module = parser.get_parsed_content("network")
    for layer in module.modules():
        if isinstance(layer, nn.BatchNorm2d | nn.BatchNorm3d):
            nn.init.normal_(layer.bias)
    return module.eval()


def write_bundle(folder: Path, about: dict[str, Any], inference: dict[str, Any], suffix: str = "json") -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs/metadata.json").write_text(json.dumps(about))
    text = json.dumps(inference) if suffix == "json" else yaml.safe_dump(inference)
    (folder / f"configs/inference.{suffix}").write_text(text)
    torch.save(module_of(inference["network_def"]).state_dict(), folder / "models/model.pt")
    return folder


def zipped(folder: Path) -> Path:
    target = folder.with_suffix(".zip")
    with zipfile.ZipFile(target, "w") as archive:
        for file in sorted(folder.rglob("*.*")):
            archive.write(file, file.relative_to(folder.parent))
    return target


def write_images(folder: Path, *shape: int) -> Path:
    folder.mkdir()
    for number in range(3):
        pixels = np.random.default_rng(number).uniform(size=shape)
        if len(shape) == 2:
            Image.fromarray((pixels * 255).astype(np.uint8)).save(folder / f"{number}.png")
        else:
            image = nibabel.Nifti1Image((pixels * 2).astype(np.float32), np.diag([-1.0, 1, 2, 1]))
            nibabel.save(image, folder / f"{number}.nii")
    return folder


def content(
    images: Path, output: Path, model: dict[str, Any], target: Any = "predicted", **cohort: Any
) -> dict[str, Any]:
    return {
        "cohort": {"source": str(images), "identifiers": "as given", **cohort},
        "model": model,
        "target": target,
        "explainers": ["saliency", "gradcam"],
        "output": str(output),
    }


def told(about: dict[str, Any] = FLAT, model: dict[str, Any] | None = None, **inference: Any) -> Any:
    """Read what a bundle of these contents tells, field by field."""
    bundle = Bundle(about, CLASSIFIER | inference)
    found = {name: getattr(bundle, name)() for name in ("network", "preprocessing", "input_shape", "activation")}
    return found | {"windows": bundle.windows({})}


def assert_same_results(config: Any, expected: Any) -> None:
    for one in (config, expected):
        assert cohortlens.run(one).explained == 3
    found, plain = (
        {key: data for key, data in stored(one.output).items() if key != "zarr.json"} for one in (config, expected)
    )
    assert found == plain


def assert_logits_of_monai(config: Any, inference: dict[str, Any]) -> None:
    """Compare with what MONAI's own classes make of the bundle's transforms and network."""
    dataset = cohortlens.open_output(config.output.url)
    prepare = ConfigParser({**inference, "network": None}).get_parsed_content("preprocessing")
    module = module_of(inference["network_def"])
    for number in range(3):
        file = next(Path(config.cohort.source.url).glob(f"{number}.*"))
        row = next(row for row, name in enumerate(dataset.image_id.values) if str(name).startswith(str(number)))
        image = prepare({"image": str(file)})["image"].as_tensor()
        with torch.no_grad():
            logits = module(image[None]).flatten(2).mean(-1)[0] if image.ndim > 3 else module(image[None])[0]
        np.testing.assert_allclose(dataset.logit.values[row], logits, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("form", ["folder", "zip", "yaml"])
def test_a_classifier_is_explained_as_its_network_named_plainly(form: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "classifier", FLAT, CLASSIFIER, "yaml" if form == "yaml" else "json")
    images = write_images(tmp_path / "images", 20, 14)
    bundle = zipped(folder) if form == "zip" else folder
    config = cohortlens.load(content(images, tmp_path / "out", {"bundle": str(bundle)}))
    plain = {
        "network": {
            **DENSENET,
            "_target_": "monai.networks.nets.DenseNet",
            "in_channels": 1,
            "block_config": [1, 1],
        },
        "weights": str(folder / "models/model.pt"),
        "classes": ["normal", "lesion"],
        "input_shape": [16, 12],
        "activation": "sigmoid",
    }
    preprocessing = [
        {"_target_": "monai.transforms.Resize", "spatial_size": [16, 12], "mode": "bilinear"},
        {"_target_": "monai.transforms.ScaleIntensity", "minv": 0, "maxv": 1.0},
    ]
    expected = cohortlens.load(content(images, tmp_path / "plain", plain, axes="monai", preprocessing=preprocessing))
    if form != "zip":
        assert config.recipe == expected.recipe
    assert_same_results(config, expected)
    assert_logits_of_monai(config, CLASSIFIER)
    assert not Path("ran").exists()


def test_a_segmentation_is_explained_as_its_network_named_plainly(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "segmentation", DEEP, SEGMENTATION)
    images = write_images(tmp_path / "images", 12, 9, 4)
    target = {"name": "region", "classes": ["organ"]}
    config = cohortlens.load(content(images, tmp_path / "out", {"bundle": str(folder)}, target))
    plain = {
        "network": UNET,
        "weights": str(folder / "models/model.pt"),
        "classes": ["background", "organ"],
        "input_shape": [12, 10, 8],
    }
    preprocessing = [
        {"_target_": "monai.transforms.Orientation", "axcodes": "RAS"},
        {"_target_": "monai.transforms.Spacing", "pixdim": [1, 1, 1], "mode": "bilinear"},
        {"_target_": "monai.transforms.SpatialPad", "spatial_size": [12, 10, 8]},
        {"_target_": "monai.transforms.ScaleIntensityRange", "a_min": 0, "a_max": 2, "b_min": 0, "b_max": 1},
    ]
    about = {"axes": "monai", "preprocessing": preprocessing}
    expected = cohortlens.load(content(images, tmp_path / "plain", plain, target, **about))
    assert config.recipe == expected.recipe
    assert_same_results(config, expected)
    assert_logits_of_monai(config, SEGMENTATION)


@pytest.mark.parametrize(
    ("shape", "stated", "expected"),
    [
        (["*", "*", "*"], {}, None),  # nothing tells how large images are: each is a window
        ([12, 10, 8], {}, None),
        ([12, 10, 16], {}, {"image_shape": [12, 10, 16], "overlap": 0.5, "weights": "gaussian"}),
        (["*"] * 3, {"image_shape": [20] * 3, "overlap": 0.0}, {"image_shape": [20] * 3, "weights": "gaussian"}),
    ],
)
def test_sliding_windows_are_those_of_the_bundles_inferer(
    shape: list[Any], stated: dict[str, Any], expected: dict[str, Any] | None, tmp_path: Path
) -> None:
    inferer = SEGMENTATION["inferer"] | {"overlap": 0.5, "mode": "gaussian", "device": "@device"}
    folder = write_bundle(tmp_path / "bundle", metadata(shape, "rest", "organ"), SEGMENTATION | {"inferer": inferer})
    model = {"bundle": str(folder), **({"windows": stated} if stated else {})}
    found = cohortlens.load(content(tmp_path / "images", tmp_path / "out", model)).model
    assert found.input_shape == (12, 10, 8)
    assert found.windows == (None if expected is None else Windows.model_validate({**expected, **stated}))


def test_a_torchscript_bundle_needs_its_digest(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "traced", FLAT, CLASSIFIER)
    (folder / "models/model.pt").unlink()
    torch.jit.save(torch.jit.trace(module_of(DENSENET), torch.rand(2, 1, 16, 12)), folder / "models/model.ts")
    images = write_images(tmp_path / "images", 20, 14)
    for bundle, file in ((folder, folder / "models/model.ts"), (zipped(folder), folder.with_suffix(".zip"))):
        model = {"bundle": str(bundle)}
        run = content(images, tmp_path / "out", model) | {"explainers": ["saliency"]}
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        with pytest.raises(ConfigurationError, match=digest):
            cohortlens.plan(cohortlens.load(run))
        cohortlens.plan(cohortlens.load(run | {"model": model | {"sha256": digest}}))


def test_what_is_stated_wins_and_is_not_read_from_the_bundle(tmp_path: Path) -> None:
    broken = CLASSIFIER | {"network_def": DENSENET | {"growth_rate": "$2 * 2"}, "preprocessing": "$os.getcwd()"}
    about = metadata(["2**n", 12], "a", "b")
    folder = write_bundle(tmp_path / "broken", about, broken | {"network_def": DENSENET})
    (folder / "configs/inference.json").write_text(json.dumps(broken))
    stated = {
        "bundle": str(folder),
        "network": {"_target_": "torch.nn.Flatten"},
        "classes": ["x", "y"],
        "input_shape": [8, 8],
    }
    config = cohortlens.load(content(tmp_path / "images", tmp_path / "out", stated, preprocessing=[], axes="zyx"))
    assert config.model.network == {"_target_": "torch.nn.Flatten"}
    assert (config.model.classes, config.model.input_shape, config.model.activation) == (("x", "y"), (8, 8), "sigmoid")
    assert (config.cohort.axes, config.cohort.preprocessing) == ("zyx", ())
    del stated["input_shape"]
    with pytest.raises(ValueError, match=r"state model\.input_shape"):
        cohortlens.load(content(tmp_path / "images", tmp_path / "out", stated, preprocessing=[]))


@pytest.mark.parametrize(("about", "field"), [(FLAT, r"cohort\.preprocessing"), ({}, r"model\.classes")])
def test_what_a_bundle_does_not_tell_is_asked_for(about: dict[str, Any], field: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", about, {"network_def": DENSENET, "channels": 1})
    with pytest.raises(ConfigurationError, match=rf"the bundle does not tell .*: state {field}"):
        cohortlens.load(content(tmp_path / "images", tmp_path / "out", {"bundle": str(folder)}))


CODE = [
    "$__import__('os').system('touch ran')",
    "$os.system('touch ran')",
    "$2 * 3",
    "$[x for x in (1, 2)]",
    "$@channels.__class__",
    "$@channels * 10**10",
    "$@channels + [1]",
    "$f'{@channels}'",
    "$_0_",
    "$'mail@channels'",
]


@pytest.mark.parametrize("code", [*CODE, "$(" * 5000, "$" + "1" * 20_000, "$1e999", "$b'x'", "$\0", "$"])
@pytest.mark.parametrize("field", ["network", "preprocessing", "inferer", "postprocessing", "target", "disabled"])
def test_an_expression_that_is_no_literal_is_refused_with_its_place(
    code: str, field: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    resize = {"_target_": "Resized", "keys": "image", "spatial_size": code}
    changes: dict[str, Any] = {
        "network": {"network_def": DENSENET | {"growth_rate": code}},
        "preprocessing": {"preprocessing": {"_target_": "Compose", "transforms": [resize]}},
        "inferer": {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [code, 12]}},
        "postprocessing": {"postprocessing": [{"_target_": "Activationsd", "keys": "pred", "softmax": code}]},
        "target": {"network_def": DENSENET | {"_target_": code}},
        "disabled": {"network_def": DENSENET | {"_disabled_": code}},
    }
    with pytest.raises(ConfigurationError, match=r"model\.bundle: the configuration's .*: the expression is code"):
        told(**changes[field])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    "reference",
    [
        *("%../../etc/passwd", "%/etc/passwd", "%other.json::key", "%configs/inference.json::channels", "@::channels"),
        *("@", "@nothing", "@channels::0", "@loop", "@first", "@chain0"),
        *("@imports::-1", "@imports::9", "@network_def::x"),
    ],
)
def test_a_reference_that_leads_nowhere_or_out_of_the_bundle_is_refused(reference: str) -> None:
    chain = {f"chain{number}": f"@chain{number + 1}" for number in range(200)}
    content = CLASSIFIER | chain | {"loop": {"a": ["@loop"]}, "first": "@second", "second": "@first"}
    references = References(content | {"value": {"in": [reference]}})
    value = references.get("value")
    assert value is not None
    with pytest.raises(ConfigurationError, match=r"model\.bundle: the configuration's .*reference"):
        references.whole(value)


def test_references_that_multiply_are_refused() -> None:
    content: dict[str, Any] = {f"level{number}": [f"@level{number + 1}"] * 10 for number in range(20)}
    references = References(content | {"level20": 1})
    value = references.get("level0")
    assert value is not None
    with pytest.raises(ConfigurationError, match="20000 values"):
        references.whole(value)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"network_def": "os.system"}, "a component was expected"),
        ({"network_def": DENSENET | {"_requires_": "$import os"}}, "_requires_"),
        ({"network_def": DENSENET | {"_mode_": "callable"}}, "_mode_"),
        ({"network_def": DENSENET | {"_disabled_": "true"}}, "switched off"),
        ({"preprocessing": {"_target_": "Compose", "transforms": ["$os.getcwd()"]}}, "transforms::0: the expression"),
        ({"preprocessing": {"_target_": "Compose", "transforms": "@imports"}}, "imports::0: the expression"),
        ({"preprocessing": {"_target_": "Compose", "transforms": [], "lazy": True}}, "`lazy` of Compose"),
        ({"inferer": {"_target_": "scripts.inferers.Own"}}, "scripts.inferers.Own"),
        ({"inferer": {"_target_": "scripts.SimpleInferer"}}, "scripts.SimpleInferer"),
        (
            {"inferer": {"_target_": "SlidingWindowInferer", "roi_size": [8, 8], "padding_mode": "reflect"}},
            "padded by 'constant' alone: leave `padding_mode` out",
        ),
        ({"postprocessing": [{"_target_": "Activationsd", "softmax": True, "sigmoid": True}]}, "softmax and sigmoid"),
    ],
)
def test_a_component_that_is_not_made_in_the_ordinary_way_is_refused(change: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=problem):
        told(**change)


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ({"_target_": "ConcatItemsd", "keys": ["t1", "t2"], "name": "image"}, "ConcatItemsd"),
        ({"_target_": "CopyItemsd", "keys": "image", "names": "copy"}, "CopyItemsd"),
        ({"_target_": "Lambdad", "keys": "image", "func": "$print"}, "Lambdad"),
        ({"_target_": "RandFlipd", "keys": "image"}, "RandFlipd"),
        ({"_target_": "scripts.Resized", "keys": "image"}, "scripts.Resized"),
        ({"_target_": "os.system", "keys": "image"}, "os.system"),
        ({"_target_": "Resized", "keys": 3, "spatial_size": [4, 4]}, "`keys` are 3"),
        ({"_target_": "Resized", "keys": "image", "mode": ["area", "nearest"]}, "2 values for 1 keys"),
        ({"_target_": "CropForegroundd", "keys": "image", "source_key": "label"}, "another key"),
        (
            {"_target_": "CropForegroundd", "keys": "image", "select_fn": "$lambda x: x > 0"},
            "select_fn: the expression",
        ),
        ({"_target_": "LoadImaged", "keys": "image", "reader": {"_target_": "scripts.Reader"}}, "another reader"),
        ({"_target_": "LoadImaged", "keys": "image", "dtype": "$np.uint8"}, "uint8"),
        ({"_target_": "EnsureTyped", "keys": "image", "dtype": "$torch.float16"}, "float16"),
        ({"_target_": "LoadImaged", "keys": "image", "reverse_indexing": True}, "reverse_indexing"),
    ],
)
def test_a_transform_without_a_counterpart_is_refused_by_name(transform: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigurationError, match=f"preprocessing::transforms::0.*{problem}"):
        told(preprocessing={"_target_": "Compose", "transforms": [transform]})


@pytest.mark.parametrize(
    ("expression", "value"),
    [
        ("$@first + @second", [4, 8, 16]),
        ("$[1] + [@scale, -@scale] + []", [1, 2, -2]),
        ("$'a/' + 'b' + @name", "a/bc"),
        ("$@scale + 1.5 + -1", 2.5),
        ("$[1.5, 1.5] if @options#fine else [3.0, 3.0]", [1.5, 1.5]),
        ("$@first if @coarse else (@second + [1])", [16, 1]),
        ("${'mode': @name, 'by': (1, None)}", {"mode": "c", "by": [1, None]}),
    ],
)
def test_expressions_of_values_alone_are_worked_out(expression: str, value: Any) -> None:
    content = {"first": [4, 8], "second": [16], "scale": 2, "name": "c", "options": {"fine": True}, "coarse": False}
    references = References(content | {"value": expression})
    found = references.get("value")
    assert found is not None and references.whole(found) == value


@pytest.mark.parametrize("start", [[1], "a" * 9])
def test_sums_that_multiply_are_refused(start: Any) -> None:
    content: dict[str, Any] = {f"level{number}": f"$@level{number + 1} + @level{number + 1}" for number in range(40)}
    with pytest.raises(ConfigurationError, match=r"the expression is code|20000 values"):
        References(content | {"level40": start}).get("level0")


BUNDLES = {
    # As bundles of MONAI's model zoo are, in the parts that are read.
    "a CT organ by windows": (
        metadata([96, 96, 96], "background", "spleen"),
        {
            "bundle_root": ".",
            "output_dir": "$@bundle_root + '/eval'",
            "datalist": "$list(sorted(glob.glob(@dataset_dir + '/imagesTs/*.nii.gz')))",
            "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
            "network_def": {"_target_": "UNet", "spatial_dims": 3, "channels": [16, 32], "norm": "batch"},
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "image"},
                    {"_target_": "Spacingd", "keys": "image", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"},
                    {"_target_": "EnsureTyped", "keys": "image"},
                ],
            },
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [96, 96, 96], "overlap": 0.5},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "Activationsd", "keys": "pred", "softmax": True},
                    {"_target_": "Invertd", "keys": "pred", "transform": "@preprocessing", "orig_keys": "image"},
                ],
            },
        },
        {
            "network": {"_target_": "monai.networks.nets.UNet", "spatial_dims": 3, "channels": [16, 32],
                        "norm": "batch"},
            "preprocessing": [
                {"_target_": "monai.transforms.Spacing", "pixdim": [1.5, 1.5, 2.0], "mode": "bilinear"}
            ],
            "input_shape": [96, 96, 96],
            "activation": "softmax",
        },
    ),
    "four sequences": (
        metadata(["8*n", "8*n", "8*n"], "core", "whole", "enhancing", channels=4),
        {
            "network_def": {"_target_": "SegResNet", "in_channels": 4, "out_channels": 3, "dropout_prob": 0.2},
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "image"},
                    {"_target_": "NormalizeIntensityd", "keys": "image", "nonzero": True, "channel_wise": True},
                ],
            },
            "inferer": {"_target_": "SlidingWindowInferer", "roi_size": [240, 240, 160], "sw_batch_size": 1},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                    {"_target_": "Lambdad", "keys": "pred", "func": "$lambda x: torch.where(x[[2]] > 0, 4, 0)"},
                ],
            },
        },
        {
            "network": {
                "_target_": "monai.networks.nets.SegResNet",
                "in_channels": 4,
                "out_channels": 3,
                "dropout_prob": 0.2,
            },
            "preprocessing": [
                {"_target_": "monai.transforms.NormalizeIntensity", "nonzero": True, "channel_wise": True}
            ],
            "input_shape": [240, 240, 160],
            "activation": "sigmoid",
        },
    ),
    "a whole body of two resolutions": (
        metadata([96, 96, 96], *map(str, range(3))),
        {
            "displayable_configs": {"highres": False, "sw_overlap": 0.25},
            "image_key": "image",
            "pixdim": "$[1.5, 1.5, 1.5] if @displayable_configs#highres else [3.0, 3.0, 3.0]",
            "network_def": {"_target_": "SegResNet", "spatial_dims": 3, "out_channels": 3},
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "LoadImaged", "keys": "@image_key"},
                    {"_target_": "Spacingd", "keys": "@image_key", "pixdim": "@pixdim", "mode": "bilinear"},
                ],
            },
            "inferer": {
                "_target_": "SlidingWindowInferer",
                "roi_size": [96, 96, 96],
                "overlap": "@displayable_configs#sw_overlap",
                "device": "$torch.device('cpu')",
            },
        },
        {
            "network": {"_target_": "monai.networks.nets.SegResNet", "spatial_dims": 3, "out_channels": 3},
            "preprocessing": [
                {"_target_": "monai.transforms.Spacing", "pixdim": [3.0, 3.0, 3.0], "mode": "bilinear"}
            ],
            "input_shape": [96, 96, 96],
            "activation": "softmax",
        },
    ),
    "patches of a slide": (
        metadata([224, 224], "tumour", channels=3),
        {
            "network_def": {"_target_": "TorchVisionFCModel", "model_name": "resnet18", "num_classes": 1,
                            "pretrained": True},
            "preprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "CastToTyped", "keys": "image", "dtype": "float32"},
                    {"_target_": "ScaleIntensityRanged", "keys": "image", "a_min": 0.0, "a_max": 255.0},
                    {"_target_": "ToTensord", "keys": "image"},
                ],
            },
            "inferer": {"_target_": "SimpleInferer"},
            "postprocessing": {
                "_target_": "Compose",
                "transforms": [
                    {"_target_": "EnsureTyped", "keys": "pred"},
                    {"_target_": "Activationsd", "keys": "pred", "sigmoid": True},
                ],
            },
        },
        {
            "network": {
                "_target_": "monai.networks.nets.TorchVisionFCModel",
                "model_name": "resnet18",
                "num_classes": 1,
                "pretrained": False,
            },
            "preprocessing": [
                {"_target_": "monai.transforms.CastToType", "dtype": "float32"},
                {"_target_": "monai.transforms.ScaleIntensityRange", "a_min": 0.0, "a_max": 255.0},
            ],
            "input_shape": [224, 224],
            "activation": "sigmoid",
        },
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", BUNDLES)
def test_bundles_as_they_are_published_are_read(name: str) -> None:
    about, inference, expected = BUNDLES[name]
    bundle = Bundle(about, inference)
    found = {field: getattr(bundle, field)() for field in expected}
    found["activation"] = found["activation"] or "softmax"  # the configuration's own
    assert found == expected


def test_of_images_and_labels_what_is_done_to_the_image_is_taken() -> None:
    chain = [
        {"_target_": "LoadImaged", "keys": ["image", "label"], "dtype": ["$np.float32", "$np.uint8"]},
        {"_target_": "Lambdad", "keys": "label", "func": "$lambda x: x > 0"},
        {"_target_": "Resized", "keys": ["label", "image"], "spatial_size": [16, 12], "mode": ["nearest", "area"]},
        {"_target_": "Compose", "transforms": "@more"},
        {"_target_": "CropForegroundd", "keys": ["image", "label"], "source_key": "image"},
        {"_target_": "EnsureTyped", "keys": ["image", "label"], "dtype": ["float32", "uint8"]},
    ]
    more = [{"_target_": "ScaleIntensityd", "keys": "image"}, {"_target_": "DeleteItemsd", "keys": "label"}]
    found = told(preprocessing={"_target_": "Compose", "transforms": chain}, more=more)["preprocessing"]
    assert found == [
        {"_target_": "monai.transforms.Resize", "spatial_size": [16, 12], "mode": "area"},
        {"_target_": "monai.transforms.ScaleIntensity"},
        {"_target_": "monai.transforms.CropForeground"},
    ]


@pytest.mark.parametrize(
    ("transform", "problem"),
    [
        ({"_target_": "ConcatItemsd", "keys": ["t1", "t2"], "name": "image"}, "may make 'image' of t1, t2"),
        ({"_target_": "CopyItemsd", "keys": "label", "names": "$@image_key"}, "may make 'image' of label"),
        ({"_target_": "Lambdad", "keys": "label", "func": "$lambda x: @x"}, "may make 'image' of label"),
        ({"_target_": "scripts.Mixd", "keys": "label"}, "may make 'image' of label"),
        ({"_target_": "EnsureTyped", "keys": ["label", "image"], "dtype": ["float32", "uint8"]}, "made 'uint8'"),
        ({"_target_": "Resized", "keys": ["label", "image"], "mode": ["area"]}, "1 values for 2 keys"),
        ({"_target_": "RandFlipd", "keys": ["image", "label"]}, "RandFlipd"),
    ],
)
def test_what_may_change_the_image_by_other_keys_is_refused(transform: dict[str, Any], problem: str) -> None:
    chain = [{"_target_": "LoadImaged", "keys": ["image", "label"]}, transform]
    with pytest.raises(ConfigurationError, match=f"preprocessing::transforms::1.*{problem}"):
        told(preprocessing={"_target_": "Compose", "transforms": chain})


def test_a_reference_within_an_expression_is_the_reference() -> None:
    chain = {"_target_": "Compose", "transforms": "$@chain "}
    scale = {"_target_": "ScaleIntensityd", "keys": "$@image_key", "maxv": "$ @intensity::maxv"}
    found = told(preprocessing=chain, chain=[scale])["preprocessing"]
    assert found == [{"_target_": "monai.transforms.ScaleIntensity", "maxv": 1.0}]


def test_the_schema_knows_bundles() -> None:
    model = schema()["$defs"]["ModelConfig"]
    plain, bundled = model["anyOf"]
    assert "bundle" not in plain["properties"] and {"bundle", "weights"} <= bundled["properties"].keys()
    assert "weights" in plain["required"] and bundled["required"] == ["bundle"]


def test_transforms_of_two_keys_are_refused() -> None:
    chain = [{"_target_": "ScaleIntensityd", "keys": key} for key in ("t1", "t2")]
    with pytest.raises(ConfigurationError, match="the keys t1, t2"):
        told(preprocessing={"_target_": "Compose", "transforms": chain})


@pytest.mark.parametrize(
    "target", ["os.system", "subprocess.Popen", "builtins.eval", "monai.bundle.load", "scripts.net.Net"]
)
@pytest.mark.parametrize("field", ["network_def", "preprocessing"])
def test_classes_elsewhere_are_refused_by_the_plan(target: str, field: str, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", FLAT, CLASSIFIER)
    (folder / "scripts").mkdir()
    (folder / "scripts/net.py").write_text("open('ran', 'w')")
    (folder / "configs/logging.conf").write_text("[loggers]\nkeys=root\n[handlers]\nkeys=x\nclass=os.system('x')")
    component = {"_target_": target, "command": "touch ran"}
    chain = {"_target_": "Compose", "transforms": [component]}
    changed = CLASSIFIER | {field: component if field == "network_def" else chain}
    (folder / "configs/inference.json").write_text(json.dumps(changed))
    run = content(write_images(tmp_path / "images", 16, 12), tmp_path / "out", {"bundle": str(folder)})
    with pytest.raises(ConfigurationError, match=f"`_target_: {target}` is not allowed here"):
        cohortlens.plan(cohortlens.load(run))
    assert not Path("ran").exists()


def test_a_configuration_that_is_too_deep_is_refused(tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", FLAT, CLASSIFIER)
    (folder / "configs/inference.json").write_text("[" * 5000 + "]" * 5000)
    with pytest.raises(ValueError, match="32 levels"):
        cohortlens.load(content(tmp_path / "images", tmp_path / "out", {"bundle": str(folder)}))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "plain.zip", "folder.zip"])
def test_what_is_no_bundle_is_refused(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder.zip").mkdir()
    with zipfile.ZipFile(tmp_path / "plain.zip", "w") as archive:
        archive.writestr("../configs/metadata.json", "{}")
        archive.writestr("a/b/configs/metadata.json", "{}")
    with pytest.raises(ValueError, match=r"model\.bundle: "):
        cohortlens.load(content(tmp_path / "images", tmp_path / "out", {"bundle": str(tmp_path / name)}))


def test_a_member_far_larger_than_its_archive_is_not_read(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle/configs/metadata.json", b" " * 2**22)
    with pytest.raises(ConfigurationError, match="far larger"):
        member((tmp_path / "bomb.zip").read_bytes(), "configs/metadata.json")


def test_a_bundle_in_a_bucket_is_read_there(bucket: Location, tmp_path: Path) -> None:
    folder = write_bundle(tmp_path / "bundle", FLAT, CLASSIFIER)
    (bucket / "bundle.zip").write(zipped(folder).read_bytes())
    for name in ("configs/metadata.json", "configs/inference.json", "models/model.pt"):
        (bucket / "bundle" / name).write((folder / name).read_bytes())
    for name, weights in (("bundle", "bundle/models/model.pt"), ("bundle.zip", "bundle.zip")):
        run = content(tmp_path / "images", tmp_path / "out", {"bundle": (bucket / name).model_dump()})
        assert cohortlens.load(run).model.weights == bucket / weights


@pytest.mark.parametrize("name", COUNTERPARTS)
def test_a_counterpart_takes_the_arguments_of_the_dictionary_transform(name: str) -> None:
    array = inspect.signature(getattr(transforms, name)).parameters
    other = inspect.signature(getattr(transforms, f"{name}d")).parameters
    kept = set(other) - {"keys", "allow_missing_keys", "ensure_same_shape", "source_key"}
    kept -= {"start_coord_key", "end_coord_key", "mask_key"}
    assert kept <= set(array)
    differing = {one for one in kept if other[one].default not in (array[one].default, inspect.Parameter.empty)}
    assert differing <= {"dtype"}  # float32 of numpy, or of torch
