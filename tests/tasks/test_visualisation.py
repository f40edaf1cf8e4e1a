"""Feature visualisation through a run: forecast, stored, verified, withdrawn, refused, and shown on the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from models.errors import ConfigurationError
from tasks.storage.location import Location
from tasks.store.objects import NAME
from tasks.store.template import open_store
from tasks.upkeep import withdraw as withdraw_module
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tests.models.test_forms import as_onnx
from tests.tasks.outputs import NETWORK, Cohort, carry_out, prepared, squares_model, stored
from tests.tasks.test_record import Patients

CLASSES: dict[str, Any] = {"name": "class_visualisation", "steps": 4, "seeds": 2, "images": 2}
CONCEPTS = CLASSES | {"name": "concept_visualisation"}
TITLE = "class_visualisation"


def content(cohort: Cohort, output: Location, **changes: Any) -> dict[str, Any]:
    return cohort.content(output, **{"explainers": ["saliency"], "results": [CLASSES]} | changes)


def test_classes_are_forecast_stored_and_shown(cohort: Cohort, output: Location) -> None:
    cost = prepared(content(cohort, output)).cost
    bare = prepared(content(cohort, output, results=[])).cost
    assert (cost.forward_passes - bare.forward_passes, cost.backward_passes - bare.backward_passes) == (8 * 9, 8 * 5)
    assert carry_out(content(cohort, output), report=True).computed == {TITLE: True} and verify(output) == []
    dataset = open_store(output).load()
    assert dataset[TITLE].dims == (f"{TITLE}_class", f"{TITLE}_start", "channel", "y", "x")
    score = dataset[f"{TITLE}_score"]
    assert (score.diff(f"{TITLE}_step") >= 0).all() and (score[..., -1] > score[..., 0]).all()
    rows = dataset[f"{TITLE}_row"].values
    assert (rows[:2] == -1).all() and (rows[2:] >= 0).all()
    np.testing.assert_allclose(score[:, 2:, 0].T, dataset.logit.values[rows[2:]], rtol=1e-4)
    page = (output / "report/index.html").read().decode()
    section = page[page.index("<h3>What raises a class</h3>") : page.index('<h2 id="cases">')]
    assert section.count("<h4>") == 2 and section.count("<svg") == 2
    for row in rows[2:]:
        assert f"{dataset.image_id.values[row]} as it is, logit" in section


def test_a_page_without_pictures_has_no_section_of_them(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output, results=[]), report=True)
    assert b"What raises" not in (output / "report/index.html").read()


def test_the_same_bytes_come_again_after_damage(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    before = stored(output)
    for key in [key for key in before if key.startswith(f"{TITLE}/c/")]:
        (output / NAME / key).write(b"damaged")
    repair(output, verify(output))
    assert verify(output) == [] and stored(output) == before


def test_withdrawn_is_as_if_the_subject_had_not_been_there(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    carry_out(content(cohort, output))
    row = int(open_store(output).load()[f"{TITLE}_row"].max())
    withdraw(output, f"patient-{row // 2}")
    found = open_store(output).load()
    assert verify(output) == [] and row not in found[f"{TITLE}_row"].values
    again = Location(url=str(tmp_path / "again"))
    cohort.take_away([row - row % 2, row - row % 2 + 1])
    carry_out(content(cohort, again))
    other = open_store(again).load()
    assert set(found.image_id.values[found[f"{TITLE}_row"][2:]]) <= set(other.image_id.values)


def test_nothing_of_a_subject_stays_where_the_pictures_cannot_be_made_again(
    cohort: Cohort, output: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise OSError("the weights are gone")

    carry_out(content(cohort, output))
    monkeypatch.setattr(withdraw_module, "compute_results", fail)
    with pytest.raises(OSError, match="the weights are gone"):
        withdraw(output, "patient-2")
    assert not [key for key in stored(output) if key.startswith(f"{TITLE}/c/")]
    assert not (output / f"results/{TITLE}.json").exists()


def test_concepts_are_shown_after_what_finds_them(tmp_path: Path, output: Location) -> None:
    cohort = Cohort(tmp_path / "concepts", range(94))
    for number in range(22):
        path = cohort.folder / f"{number}.npy"
        np.save(path, np.load(path) + np.float32(2))
    table = pd.read_csv(cohort.folder / "manifest.csv")
    table["label"] = ["bright"] * 22 + ["random"] * 22 + ["a", "b"] * 25
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    tcav = {"name": "tcav", "concepts": ["bright", "random"], "classifier": "mean_difference"}
    asked = {"explainers": ["pooled_activations"], "results": [CONCEPTS, tcav], "compute": {"batch_size": 32}}
    carry_out(cohort.content(output, target={"name": "classes", "classes": ["a"]}, **asked), report=True)
    assert verify(output) == []
    dataset = open_store(output).load()
    score = dataset.concept_visualisation_score
    assert score.dims[0] == "tcav_concept" and np.isnan(score.sel(tcav_concept="random")).all()
    bright = score.sel(tcav_concept="bright").values
    assert (np.diff(bright) >= 0).all() and (bright[:, -1] > bright[:, 0]).all()
    along = dataset.pooled_activations.values @ dataset.tcav_direction.sel(tcav_concept="bright").values
    np.testing.assert_allclose(bright[2:, 0], along[dataset.concept_visualisation_row.values[2:]], rtol=1e-4)
    page = (output / "report/index.html").read().decode()
    assert "<h3>What raises a class or a concept</h3>" in page and "as it is, activation" in page
    removed = output / "results/tcav.json"
    removed.remove()
    before = stored(output)
    carry_out(cohort.content(output, target={"name": "classes", "classes": ["a"]}, **asked))
    assert stored(output) == before and verify(output) == []


def test_concepts_that_no_result_finds_are_refused(cohort: Cohort, output: Location) -> None:
    with pytest.raises(ConfigurationError, match="concept_visualisation is computed from tcav_direction, which no"):
        prepared(content(cohort, output, results=[CONCEPTS]))


def test_a_form_without_gradients_is_refused(cohort: Cohort, output: Location) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(256, 2))
    (cohort.folder / "model.onnx").write_bytes(as_onnx(module, images=torch.randn(2, 1, 16, 16)))
    model = {name: value for name, value in cohort.model.items() if name != "network"}
    model |= {"weights": str(cohort.folder / "model.onnx")}
    asked = {"model": model, "explainers": [{"name": "occlusion", "window": 8, "stride": 8}]}
    with pytest.raises(ConfigurationError, match="class_visualisation: needs gradients, which the form ONNX"):
        prepared(content(cohort, output, **asked))


def test_windows_and_records_are_refused(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    model = squares_model(cohort.folder, ("a", "b"), NETWORK | {"in_shape": [1, 8, 8]})
    model |= {"input_shape": [8, 8], "windows": {"image_shape": [16, 16]}}
    with pytest.raises(ConfigurationError, match=r"class_visualisation: with model\.windows"):
        prepared(content(cohort, output, model=model))
    patients = Patients(tmp_path / "patients", 4)
    with pytest.raises(ConfigurationError, match=r"class_visualisation: with cohort\.record"):
        prepared(patients.content(output, explainers=["saliency"], results=[CLASSES]))
