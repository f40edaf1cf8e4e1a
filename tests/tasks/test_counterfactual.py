"""Counterfactuals in the store and the report, and their autoencoder, which the plan pins."""

import hashlib
import json
from base64 import b64decode
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from monai.networks.nets import VarAutoEncoder
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn

from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.loading import NAMESPACES
from models.training import fit_autoencoder
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import draw
from tasks.plan.plan import Plan
from tasks.report.counterfactuals import with_input
from tasks.report.pictures import Panel, Scale, case_panels
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.engines import Engines
from tests.tasks.outputs import Cohort, carry_out, prepared, stored

NETWORK = {
    "_target_": "monai.networks.nets.VarAutoEncoder",
    "spatial_dims": 2,
    "in_shape": [1, 16, 16],
    "out_channels": 1,
    "latent_size": 3,
    "channels": [4, 4],
    "strides": [2, 2],
    "use_sigmoid": False,
}


@pytest.fixture
def counterfactual(cohort: Cohort) -> dict[str, Any]:
    """An autoencoder with random weights, which write large changes."""
    torch.manual_seed(0)
    module = instantiate(NETWORK, locate(NETWORK, NAMESPACES))
    weights = str(cohort.folder / "autoencoder.safetensors")
    save_file({name: 2.0 * value for name, value in module.state_dict().items()}, weights)
    return {"name": "counterfactual", "longest": 10.0, "autoencoder": {"network": NETWORK, "weights": weights}}


def test_it_is_stored_verified_shown_and_withdrawn(
    cohort: Cohort, output: Location, counterfactual: dict[str, Any]
) -> None:
    content = cohort.content(output, explainers=["saliency", counterfactual], metrics=["relevance_mass"])
    carry_out(content, report=True)
    assert verify(output) == []
    found = open_store(output).load()
    valid = found.counterfactual_valid.values[:, 0] == 1
    assert valid.sum() >= 5
    apart = np.abs(found.counterfactual.values[:, 0] - found.image.values)
    maps = found.attribution.sel(explainer="counterfactual").values[:, 0]
    assert np.allclose(maps[valid], apart[valid].max(1), rtol=2**-7)
    assert np.isnan(maps[~valid]).all() and np.isnan(apart[~valid]).all()
    sizes = found.counterfactual_distance.values[valid, 0]
    assert np.allclose(sizes[:, 1], apart[valid].sum((1, 2, 3)), rtol=1e-4)
    assert np.allclose(sizes[:, 2], np.sqrt(np.square(apart[valid]).sum((1, 2, 3))), rtol=1e-4)
    inside = (apart.max(1) * (found["mask"].values == 1)).sum((1, 2)) / apart.max(1).sum((1, 2))
    mass = found.metric_relevance_mass.sel(explainer="counterfactual").values[:, 0]
    assert np.allclose(mass[valid], inside[valid], rtol=0.01)
    page = (output / "report/index.html").read().decode()
    assert "predictions that turned" in page and "counterfactual − image" in page
    assert f"{100 * valid.mean():.0f} %" in page or f"{valid.mean():.2f}" in page
    assert "the prediction turns, with" in page and "of it in the mask" in page

    later = output.at(f"{output.url}-later")
    carry_out(content | {"explainers": ["saliency"], "output": later.model_dump()})
    carry_out(content | {"output": later.model_dump()}, extend=True)
    extended = open_store(later).load()
    assert np.array_equal(extended.counterfactual, found.counterfactual, equal_nan=True)

    withdraw(output, "patient-2")
    assert verify(output) == []
    after = open_store(output).load()
    for name in ("counterfactual", "counterfactual_valid", "counterfactual_probability", "counterfactual_distance"):
        assert np.isnan(after[name].values[4:6]).all()


def test_the_plan_pins_the_autoencoder(cohort: Cohort, output: Location, counterfactual: dict[str, Any]) -> None:
    content = cohort.content(output, explainers=[counterfactual])
    carry_out(content)
    plan, before = Plan.read(output), stored(output)
    path = Path(counterfactual["autoencoder"]["weights"])
    (explainer,) = plan.explainers
    assert explainer.autoencoder.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()  # type: ignore[attr-defined]
    carry_out(content)
    assert stored(output) == before
    save_file({name: 1.5 * value for name, value in load_file(path).items()}, path)
    with pytest.raises(ConfigurationError, match=r"autoencoder\.weights: .* has SHA-256 .*, but autoencoder.sha256 is"):
        Engines().of(output, plan)
    with pytest.raises(ConfigurationError, match="the output holds another run"):
        prepared(content)


def test_an_autoencoder_may_be_moved(cohort: Cohort, output: Location, counterfactual: dict[str, Any]) -> None:
    content = cohort.content(output, explainers=["saliency", counterfactual])
    carry_out(content)
    before = stored(output)
    own = counterfactual["autoencoder"]
    there = Path(own["weights"])
    moved = counterfactual | {"autoencoder": own | {"weights": str(there.rename(there.with_name("moved.safetensors")))}}
    cohort.add([10])  # which is explained by the file where it lies now
    carry_out(content | {"explainers": ["saliency", moved]})
    assert verify(output) == []
    assert open_store(output).counterfactual_valid.notnull().all() and open_store(output).sizes["image_id"] == 11
    of_others = [key for key in before if key.startswith(("attribution/c/0", "counterfactual/c/0"))]
    assert of_others and all(stored(output)[key] == before[key] for key in of_others)
    with pytest.raises(ConfigurationError, match="the output holds another run"):
        prepared(content | {"explainers": ["saliency", moved | {"steps": 3}]})


def test_the_report_shows_the_change_of_what_the_network_takes(
    cohort: Cohort, output: Location, counterfactual: dict[str, Any]
) -> None:
    content = cohort.content(output, explainers=[counterfactual])
    content["cohort"]["preprocessing"] = [{"_target_": "monai.transforms.NormalizeIntensity"}]
    for path in cohort.folder.glob("?.npy"):
        np.save(path, 50 + 20 * np.load(path))
    carry_out(content)
    found = open_store(output).load()
    image = found.isel(image_id=int(np.flatnonzero(found.counterfactual_valid.values[:, 0] == 1)[0]))
    taken = (image["image"].values - image["image"].values.mean()) / image["image"].values.std()
    change = image["counterfactual"].values[0, 0] - taken[0]
    assert np.allclose(np.abs(change), image["attribution"].values[0, 0], rtol=2**-7, atol=1e-4)
    scale = Scale("counterfactual", float(np.abs(change).max()), signed=True)
    *_, changed, difference = case_panels(with_input(image, Plan.read(output)), 0, [scale])
    assert (changed.title, difference.title) == ("counterfactual: changed image", "counterfactual − image")
    assert np.abs(drawn(difference) - 255 * scale.colours(change)).max() <= 3
    assert drawn(changed).std() > 40  # neither black nor white all over


def drawn(panel: Panel) -> np.ndarray:
    return np.asarray(Image.open(BytesIO(b64decode(panel.uri.partition(",")[2]))).convert("RGB")).astype(int)


def test_an_autoencoder_that_is_not_there_or_does_not_fit_is_refused_before_the_run(
    cohort: Cohort, output: Location, counterfactual: dict[str, Any]
) -> None:
    own = counterfactual["autoencoder"]
    missing = own | {"weights": str(cohort.folder / "none.safetensors")}
    pickled = cohort.folder / "autoencoder.pt"
    torch.save(nn.Linear(1, 1), pickled)
    for wrong, said in (
        (missing, "autoencoder.weights: there is no file"),
        (own | {"sha256": "0" * 64}, "but autoencoder.sha256 is 0000"),
        (own | {"network": NETWORK | {"channels": [4, 8]}}, "autoencoder.weights do not fit"),
        (own | {"network": NETWORK | {"_target_": "subprocess.Popen"}}, "is not allowed here"),
        (own | {"weights": str(pickled)}, "autoencoder.weights"),
    ):
        with pytest.raises(ConfigurationError, match=said):
            prepared(cohort.content(output, explainers=[counterfactual | {"autoencoder": wrong}]))


def test_training_is_repeatable_and_what_is_drawn_looks_like_the_images() -> None:
    images = torch.from_numpy(np.random.default_rng(0).normal(size=(32, 1, 8, 8))).float().cumsum(-1).cumsum(-2)
    images = (images - images.mean()) / images.std()
    trained, losses = [], []
    for _ in range(2):
        torch.manual_seed(1)
        network = VarAutoEncoder(2, (1, 8, 8), 1, 8, (16,), (2,), norm="BATCH", use_sigmoid=False)
        losses.append([])
        fit_autoencoder(
            network,
            images,
            epochs=40,
            seed=1,
            prior=0.01,
            learning_rate=0.02,
            report=lambda _, loss: losses[-1].append(loss),
        )
        trained.append(network.state_dict())
    assert all(torch.equal(one, trained[1][name]) for name, one in trained[0].items())
    assert losses[0] == losses[1] and losses[0][-1] < 0.5 * losses[0][0]


def test_the_shipped_autoencoder_is_small_and_reaches_its_recorded_error() -> None:
    path = WEIGHTS / "autoencoder_2d.safetensors"
    recipe = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    assert hashlib.sha256(path.read_bytes()).hexdigest() == recipe["sha256"]
    network = VarAutoEncoder(**recipe["network"]).eval()
    network.load_state_dict(load_file(path))
    images, _ = draw(60, 2, seed=991)
    with torch.no_grad():
        error = float(
            (network.decode_forward(network.encode_forward(images)[0], use_sigmoid=False) - images).square().mean()
        )
    assert error < 1.2 * recipe["held_out_error"] < 0.1
