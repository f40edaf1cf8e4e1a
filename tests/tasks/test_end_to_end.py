"""Networks that segment, regress or give each class by itself: from the files to the store and the report."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import xarray as xr
from safetensors.torch import load_file
from torch import Tensor, nn

from models.components import instantiate, locate
from models.loading import NAMESPACES
from tasks.report import write_report
from tasks.report.numbers import number
from tasks.storage.location import Location
from tasks.store import template
from tests.tasks.conftest import CONSTANT, EMPTY_MASK, SQUARES, WITHOUT_MASK, Planned, delivered_squares
from tests.tasks.outputs import squares_model

UNET = {
    "_target_": "monai.networks.nets.UNet",
    "spatial_dims": 2,
    "in_channels": 1,
    "out_channels": 2,
    "channels": [4, 8],
    "strides": [2],
}
CLASSIFIER = {"in_shape": [1, 16, 16], "channels": [4, 8], "strides": [2, 2]}


def module(model: dict[str, Any]) -> nn.Module:
    built: nn.Module = instantiate(model["network"], locate(model["network"], NAMESPACES))
    built.load_state_dict(load_file(model["weights"]))
    return built.eval()


def gradient(score: Tensor, images: Tensor) -> np.ndarray:
    return torch.autograd.grad(score.sum(), images)[0][:, 0].numpy()


def close(found: np.ndarray, expected: np.ndarray) -> bool:
    """Whether equal up to the rounding of maps in the store."""
    return bool(np.linalg.norm(found - expected) < 0.005 * np.linalg.norm(expected))


def inputs(dataset: xr.Dataset) -> Tensor:
    return torch.from_numpy(dataset.image.values).requires_grad_()


@pytest.mark.parametrize("of", ["mask", "predicted"])
def test_a_segmentation_is_explained_in_its_region(
    of: str, output: Location, tmp_path: Path, planned: Planned, squares: Path
) -> None:
    model = squares_model(tmp_path, ("back", "square"), UNET)
    target = {"name": "region", "classes": ["square"], "of": of}
    plan = planned(
        output,
        cohort={"source": str(squares), "identifiers": "as given"},
        model=model,
        explainers=["saliency", "gradcam"],
        target=target,
    )
    assert plan.segments
    dataset = delivered_squares(output, plan)
    images = inputs(dataset)
    logits = module(model)(images)
    region = logits.argmax(1) == 1 if of == "predicted" else torch.from_numpy(dataset.mask.values == 1)
    maps = gradient(logits[:, 1] * region, images)

    without = {EMPTY_MASK, WITHOUT_MASK} if of == "mask" else set()
    has_target = np.array([row not in without for row in range(SQUARES)])
    assert (dataset.target_class.values[:, 0] == np.where(has_target, 1, -1)).all()
    assert (dataset.status.values == template.EXPLAINED).all()
    assert close(dataset.attribution.values[has_target, 0, 0], maps[has_target])
    assert np.isfinite(dataset.attribution.values[has_target]).all()
    assert np.isnan(dataset.attribution.values[~has_target]).all()
    assert not dataset.map_flags.values[~has_target].any()
    assert np.allclose(dataset.logit.values, logits.mean((2, 3)).detach(), atol=1e-4)
    assert np.allclose(dataset.probability.values, logits.softmax(1).mean((2, 3)).detach(), atol=1e-4)
    assert dataset.logit.attrs["long_name"] == "logit, mean over space"
    for name in ("class", "target", "explainer", "channel"):
        assert dataset.attrs[f"{name}_names"] == list(dataset[name].values)
    assert dataset.probability.attrs["long_name"] == "softmax of the logits, mean over space"
    page = write_report(output).read().decode()
    assert "Predictions are means over space" in page
    shown = page.count('<article class="case"')
    assert page.count("maps for square") + page.count("no maps: the image has no target") == shown


def test_a_regression_has_values_and_no_probabilities(
    output: Location, tmp_path: Path, planned: Planned, squares: Path
) -> None:
    network = CLASSIFIER | {"_target_": "monai.networks.nets.Regressor", "out_shape": [2]}
    model = squares_model(tmp_path, ("volume", "age"), network) | {"activation": "identity"}
    plan = planned(
        output,
        cohort={"source": str(squares), "identifiers": "as given"},
        model=model,
        explainers=["saliency", {"name": "saliency", "label": "the same & again"}],
        target={"name": "classes", "classes": ["age"]},
    )
    dataset = delivered_squares(output, plan)
    images = inputs(dataset)
    values = module(model)(images)
    assert "probability" not in dataset
    assert dataset.logit.attrs["long_name"] == "model output"
    assert np.allclose(dataset.logit.values, values.detach(), atol=1e-4)
    assert close(dataset.attribution.values[:, 0, 0], gradient(values[:, 1], images))
    assert list(dataset.explainer.values) == ["saliency", "the same & again"]
    page = write_report(output).read().decode()
    assert "random <span" in page and "uncertain" not in page
    values = [[number(value, ".4g") for value in row] for row in dataset.logit.values]
    shown = [f"volume <b>{volume}</b> · age <b>{age}</b>" in page for volume, age in values]
    assert sum(shown) == page.count('<article class="case"') >= 6
    assert page.count("<figcaption>the same &amp; again</figcaption>") == page.count("<article") == sum(shown) + 1


def test_only_classes_over_their_thresholds_have_maps(
    output: Location, tmp_path: Path, planned: Planned, squares: Path
) -> None:
    network = CLASSIFIER | {"_target_": "monai.networks.nets.Classifier", "classes": 3}
    model = squares_model(tmp_path, ("a", "b", "c"), network) | {"activation": "sigmoid"}
    thresholds = {"a": 0.5, "b": 0.5, "c": 1.0}
    plan = planned(
        output,
        cohort={"source": str(squares), "identifiers": "as given"},
        model=model,
        explainers=["saliency"],
        target={"name": "over_threshold", "threshold": thresholds},
    )
    dataset = delivered_squares(output, plan)
    images = inputs(dataset)
    logits = module(model)(images)
    over = (logits.sigmoid() > torch.tensor(list(thresholds.values()))).numpy()
    assert 0 < over.any(1).sum() < SQUARES and over[:, :2].any(0).all()  # some images have no target at all
    assert (dataset.target_class.values == np.where(over, np.arange(3), -1)).all()
    assert (dataset.status.values == template.EXPLAINED).all()
    for index in range(3):
        has_map = over[:, index]
        maps = dataset.attribution.values[:, index, 0]
        assert np.isnan(maps[~has_map]).all()
        assert not has_map.any() or close(maps[has_map], gradient(logits[:, index], images)[has_map])
        logits = module(model)(images)
    page = write_report(output).read().decode()
    assert "maps for a" in page and "maps for b" in page and "maps for c" not in page
    assert "no maps: the image has no target" in page


def test_odd_images_and_maps_are_flagged_and_explained(output: Location, planned: Planned, squares: Path) -> None:
    network = {"_target_": "monai.networks.nets.Classifier", "classes": 2, **CLASSIFIER}
    plan = planned(
        output,
        cohort={
            "source": str(squares),
            "identifiers": "as given",
            "preprocessing": [{"_target_": "monai.transforms.NormalizeIntensity"}],
        },
        model=squares_model(squares.parent, ("a", "b"), network),
        explainers=["saliency", {"name": "input_x_gradient", "label": "product"}],
        target={"name": "predicted", "k": 2},
    )
    dataset = delivered_squares(output, plan)
    rows = np.arange(SQUARES)
    assert (dataset.status.values == template.EXPLAINED).all()
    assert dataset.image_flags.dtype == dataset.map_flags.dtype == np.uint8
    meanings = dataset.image_flags.attrs["flag_meanings"].split()
    masks = dict(zip(meanings, dataset.image_flags.attrs["flag_masks"], strict=True))
    assert masks == {
        "constant": 1,
        "not_finite": 2,
        "saturated": 4,
        "mask_unplaced": 8,
        "partly_covered": 16,
        "no_tissue": 32,
    }
    assert (dataset.image_flags.values == np.where(rows == CONSTANT, masks["constant"], 0)).all()
    # What is zero everywhere after standardisation has no product with a gradient.
    assert dataset.map_flags.attrs["flag_meanings"] == "blank not_finite no_source inexact"
    assert (dataset.map_flags.sel(explainer="product").values == (rows == CONSTANT)[:, None]).all()
    assert not dataset.map_flags.sel(explainer="saliency").values.any()
    assert not dataset.attribution.sel(explainer="product").values[CONSTANT].any()
    page = write_report(output).read().decode()
    assert "image constant</b> (1 image)" in page and "map blank</b> (1 image)" in page
    card = page[page.index(f"<h4>square-{CONSTANT}</h4>") :].split("</article>")[0]
    assert '<p class="flags">image constant</p>' in card
    assert card.count("map blank: product") == 2
    assert page.count("map blank: product") <= 4  # on no other card


def test_prediction_alone_leaves_a_store_and_a_report_without_maps(
    output: Location, planned: Planned, squares: Path
) -> None:
    network = {"_target_": "monai.networks.nets.Classifier", "classes": 2, **CLASSIFIER}
    plan = planned(
        output,
        cohort={"source": str(squares), "identifiers": "as given"},
        model=squares_model(squares.parent, ("a", "b"), network),
        explainers=["prediction"],
        target={"name": "predicted", "k": 2},
    )
    dataset = delivered_squares(output, plan)
    assert "attribution" not in dataset and "map_flags" not in dataset
    assert dataset.image_flags.values[CONSTANT] == 1
    page = write_report(output).read().decode()
    assert page.count('<article class="case"') == page.count('<div class="frame"') >= 6
    assert "no maps: the image" not in page
