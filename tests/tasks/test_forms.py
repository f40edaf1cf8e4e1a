"""A run of a model of several files: whatever becomes of workers, files and images, its bytes are those of the plan."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from flows.cli.printing import print_plan
from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.loading import NAMESPACES, build
from tasks import run
from tasks.plan.plan import Plan
from tasks.prepare.replan import Refused
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.engines import Engines
from tests.tasks.outputs import NETWORK, Cohort, carry_out, explained, planned, prepared, stored

Model = dict[str, Any]
FEATURES = 3


def folds(cohort: Cohort) -> Model:
    """The cohort's network and two others of other weights."""
    weights = load_file(cohort.model["weights"])
    names = [cohort.model["weights"]]
    for number in (1, 2):
        generator = torch.Generator().manual_seed(number)
        names.append(str(cohort.folder / f"fold-{number}.safetensors"))
        noisy = {name: value + torch.randn(value.shape, generator=generator) for name, value in weights.items()}
        save_file(noisy, names[-1])
    return cohort.model | {"weights": names}


def headed(cohort: Cohort) -> Model:
    """A network of three features, and a linear layer on them."""
    made = build_features(cohort)
    save_file(
        {"weight": torch.randn(2, FEATURES, generator=torch.Generator().manual_seed(3))}, made / "probe.safetensors"
    )
    return features(cohort) | {"head": str(made / "probe.safetensors")}


def compared(cohort: Cohort) -> Model:
    made = build_features(cohort)
    np.save(made / "references.npy", np.random.default_rng(3).normal(size=(2, FEATURES)))
    return features(cohort) | {"reference": {"weights": str(made / "references.npy")}, "activation": "identity"}


def build_features(cohort: Cohort) -> Path:
    torch.manual_seed(1)
    network = features(cohort)["network"]
    save_file(instantiate(network, locate(network, NAMESPACES)).state_dict(), cohort.folder / "features.safetensors")
    return cohort.folder


def features(cohort: Cohort) -> Model:
    network = NETWORK | {"classes": FEATURES}
    return cohort.model | {"network": network, "weights": str(cohort.folder / "features.safetensors")}


FORMS: dict[str, Callable[[Cohort], Model]] = {"folds": folds, "head": headed, "reference": compared}


@pytest.mark.parametrize("form", FORMS)
def test_bytes_do_not_depend_on_workers_and_damage_is_mended(form: str, cohort: Cohort, output: Location) -> None:
    model = FORMS[form](cohort)
    content = cohort.content(output, model=model)
    carry_out(content)
    before = stored(output)
    other = output.at(f"{output.url}-other")
    planned(cohort.content(other, model=model))
    for index in (2, 0):
        explained(other, [index])  # by a worker that has just started
    explained(other, [1], engines=Engines())
    run.complete(other, Engines())
    assert {key: data for key, data in stored(other).items() if key != "zarr.json"} == {
        key: data for key, data in before.items() if key != "zarr.json"
    }
    assert verify(output) == []
    (output / "explanations.zarr" / next(key for key in before if "attribution/c/1" in key)).write(b"")
    repair(output, verify(output))
    assert verify(output) == [] and stored(output) == before
    withdraw(output, "patient-2")
    assert verify(output) == []


@pytest.mark.parametrize("form", FORMS)
def test_a_run_goes_on_with_the_same_files_and_is_extended(form: str, cohort: Cohort, output: Location) -> None:
    model = FORMS[form](cohort)
    planned(cohort.content(output, model=model))
    explained(output, [1])
    carry_out(cohort.content(output, model=model))
    more = ["saliency", {"name": "smoothgrad", "samples": 2}, "input_x_gradient"]
    assert prepared(cohort.content(output, model=model, explainers=more), extend=True).cost.forward_passes > 0
    carry_out(cohort.content(output, model=model, explainers=more), extend=True)
    assert verify(output) == []
    assert open_store(output).attribution.notnull().all()


@pytest.mark.parametrize(
    ("form", "field", "file"),
    [
        ("folds", "model digest", "fold-2.safetensors"),
        ("head", r"model\.head", "probe.safetensors"),
        ("reference", r"model\.reference", "references.npy"),
    ],
)
def test_a_file_that_changed_or_is_lost_is_found(
    form: str, field: str, file: str, cohort: Cohort, output: Location
) -> None:
    model = FORMS[form](cohort)
    content = cohort.content(output, model=model)
    planned(content)
    explained(output, [1])
    path = cohort.folder / file
    kept = path.read_bytes()
    if file.endswith("npy"):
        np.save(path, np.ones((2, FEATURES)))
    else:
        save_file({name: value + 1 for name, value in load_file(path).items()}, path)
    with pytest.raises(Refused, match=rf"{field}: "):
        prepared(content)
    with pytest.raises(ConfigurationError, match="SHA-256"):
        explained(output, [0])
    path.unlink()
    with pytest.raises(ConfigurationError, match=rf"model\.\w+: there is no file .*{file}"):
        prepared(content)
    path.write_bytes(kept)
    carry_out(content)
    assert verify(output) == []


def test_what_is_stored_is_the_mean_of_the_folds(
    cohort: Cohort, output: Location, capsys: pytest.CaptureFixture[str]
) -> None:
    model = folds(cohort)
    spread = {"name": "folds", "explainers": ["saliency"]}
    ready = prepared(cohort.content(output, model=model, uncertainty=[spread]))
    carry_out(cohort.content(output, model=model, uncertainty=[spread]))
    alone = []
    for number, weights in enumerate(model["weights"]):
        own = output.at(f"{output.url}-{number}")
        carry_out(cohort.content(own, model=cohort.model | {"weights": weights}))
        alone.append(open_store(own).load())
    found = open_store(output).load()
    probability = np.stack([one.probability.values for one in alone]).astype(float)
    assert np.allclose(found.probability, probability.mean(0), atol=1e-6)
    assert np.allclose(found.uncertainty_folds_outputs, probability.std(0, ddof=1), atol=1e-6)
    assert ready.folds is not None and (ready.folds.folds, ready.folds.images) == (3, 3)
    tried = probability[:, [0, 3, 6]]
    assert np.isclose(ready.folds.apart, (tried.max(0) - tried.min(0)).max(), atol=1e-5)
    assert ready.folds.divided == (tried.argmax(-1) != tried[0].argmax(-1)).any(0).sum()
    print_plan(ready)
    assert "3, whose answers about 3 images lie up to" in capsys.readouterr().out
    assert found.attrs["model_digest"].count("sha256:") == 3
    assert len(Plan.read(output).model.sha256 or ()) == 3


def test_a_layer_of_one_fold_has_no_spread_over_folds(cohort: Cohort, output: Location) -> None:
    network = build(prepared(cohort.content(output)).plan.model, Path(cohort.model["weights"]).read_bytes())
    explainer = {"name": "gradcam", "layer": f"folds.0.{network.spatial_layers[-1]}"}
    content = cohort.content(output, model=folds(cohort), explainers=[explainer])
    prepared(content)
    with pytest.raises(ConfigurationError, match=r"there is no layer 'folds\.0\."):
        prepared(content | {"uncertainty": ["folds"]})
