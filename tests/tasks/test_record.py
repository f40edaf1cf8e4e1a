"""Columns of the cohort table as a second input, from the table to the store and back out of it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from flows.config import RunConfig
from models.errors import ConfigurationError
from models.networks import JointFusionClassifier
from tasks import run
from tasks.cohort.survey import which
from tasks.plan import manifest
from tasks.plan import shards as shards_module
from tasks.report.numbers import number
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.engines import Engines
from tests.tasks.outputs import Cohort, carry_out, explained, planned, prepared, squares_model, stored

NETWORK = {
    "_target_": "models.networks.JointFusionClassifier",
    "spatial_dims": 2,
    "in_channels": 1,
    "num_classes": 2,
    "fields": 2,
    "features": [4, 4, 4, 4],
    "hidden": 8,
}
RECORD = [{"name": "Age", "mean": 50, "scale": 10, "fill": 60}, {"name": "sex", "values": {"F": 0, "M": 1}}]
SECRET = "zebrafish"


class Patients(Cohort):
    """Pictures, each with the age and the sex of its patient in further columns of the manifest."""

    def __init__(self, folder: Path, count: int, cells: Mapping[int, tuple[Any, Any]] | None = None) -> None:
        self.cells = dict(cells or {})
        super().__init__(folder, range(count))
        self.model = squares_model(folder, ("a", "b"), NETWORK)

    def _list(self) -> None:
        super()._list()
        table = pd.read_csv(self.folder / "manifest.csv")
        cells = [self.cells.get(n, (30 + 5 * n, "FM"[n % 2])) for n in self.numbers]
        table["age "], table["Sex"] = zip(*cells, strict=True) if cells else ((), ())
        table.to_csv(self.folder / "manifest.csv", index=False)

    def change(self, number: int, age: Any, sex: Any) -> None:
        self.cells[number] = age, sex
        self._list()

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        explainers = ["saliency", "gradcam", {"name": "occlusion", "window": 8}]
        content = super().content(output, **{"explainers": explainers} | changes)
        return content | {"cohort": content["cohort"] | {"record": RECORD}}


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)


@pytest.fixture
def patients(tmp_path: Path) -> Patients:
    return Patients(tmp_path / "cohort", 6)


def test_a_record_goes_from_the_table_to_the_network_and_into_the_store(tmp_path: Path, output: Location) -> None:
    cells = {1: ("", "M"), 2: (SECRET, "F"), 3: (44, ""), 4: (44, SECRET)}
    patients = Patients(tmp_path / "cohort", 8, cells)
    metrics = [{"name": "max_sensitivity", "samples": 2}]
    uncertainty = [{"name": "test_time_augmentation", "samples": 2}]
    summary = carry_out(patients.content(output, metrics=metrics, uncertainty=uncertainty), report=True)
    assert (summary.explained, summary.quarantined) == (5, 3) and verify(output) == []
    reasons = {entry.id: entry.reason or "" for entry in manifest.read(output)}
    said = [
        "",
        "",
        "the 'Age' of its record is no number",
        "its record has no 'sex'",
        "the 'sex' of its record is none",
    ]
    assert all(reasons[f"id-{row}"].startswith(text) for row, text in enumerate(said))
    dataset = open_store(output).load()
    there = [0, 1, 5, 6, 7]
    expected = np.array([[-2, 0], [1, 1], [0.5, 1], [1, 0], [1.5, 1]], np.float32)
    assert list(dataset.field.values) == ["Age", "sex"] and list(dataset.modality.values) == ["image", "record"]
    assert np.array_equal(dataset.record.values[there], expected) and np.isnan(dataset.record.values[[2, 3, 4]]).all()
    module = JointFusionClassifier(2, 1, 2, 2, (4, 4, 4, 4), 8).eval()
    module.load_state_dict(load_file(patients.folder / "weights.safetensors"))
    images = torch.from_numpy(dataset["image"].values[there])
    record = torch.from_numpy(expected).requires_grad_()
    logits = module(images, record)
    assert np.allclose(dataset.logit.values[there], logits.detach(), atol=1e-5)
    (gradient,) = torch.autograd.grad(logits.amax(1).sum(), record)
    found = dataset.attribution_record.isel(target=0)
    assert np.allclose(found.sel(explainer="saliency").values[there], gradient, atol=1e-5)
    assert found.sel(explainer="gradcam").isnull().all() and np.isfinite(found.sel(explainer="occlusion")[there]).all()
    everything = b"".join(path.read_bytes() for path in Path(output.url).rglob("*") if path.is_file())
    assert SECRET.encode() not in everything


def test_whatever_the_order_of_workers_the_bytes_are_the_same(
    patients: Patients, output: Location, tmp_path: Path
) -> None:
    undisturbed = Location(url=str(tmp_path / "undisturbed"))
    carry_out(patients.content(undisturbed))
    planned(patients.content(output))
    for shard in (1, 0):
        explained(output, [shard])
    run.complete(output, Engines())
    one, other = ({key: data for key, data in stored(at).items() if key != "zarr.json"} for at in (output, undisturbed))
    assert one == other and any(key.startswith("attribution_record/c/") for key in one)


def test_an_image_whose_cell_changes_is_explained_again(patients: Patients, output: Location) -> None:
    carry_out(patients.content(output))
    before = open_store(output).load()
    patients.change(2, 77, "M")
    ready = prepared(patients.content(output))
    assert ready.changes is not None and (ready.changes.changed, ready.changes.new) == (1, 0)
    carry_out(patients.content(output))
    after = open_store(output).load()
    assert after.record.values[2].tolist() == [np.float32(2.7), 1] and verify(output) == []
    same = [0, 1, 3, 4, 5]
    assert np.array_equal(after.attribution_record.values[same], before.attribution_record.values[same], equal_nan=True)
    assert not np.array_equal(after.logit.values[2], before.logit.values[2])


def test_a_cell_that_changes_behind_the_plan_is_quarantined_and_tried_again(
    patients: Patients, output: Location
) -> None:
    planned(patients.content(output))
    patients.change(2, 77, "M")
    assert run.complete(output, Engines()).quarantined == 1
    assert manifest.read(output)[2].reason == "the file or its record changed after the run was planned: run again"
    assert carry_out(patients.content(output)).explained == 6


def test_a_record_goes_with_its_subject(patients: Patients, output: Location) -> None:
    carry_out(patients.content(output))
    withdraw(output, "patient-1")
    dataset = open_store(output).load()
    assert np.isnan(dataset.record.values[[2, 3]]).all() and np.isnan(dataset.attribution_record.values[[2, 3]]).all()
    assert np.isfinite(dataset.record.values[[0, 1, 4, 5]]).all() and verify(output) == []
    assert not any(entry.sources for entry in manifest.read(output)[2:4])


def test_explainers_that_are_added_attribute_to_the_same_records(patients: Patients, output: Location) -> None:
    carry_out(patients.content(output, explainers=["gradcam"]))
    more = ["gradcam", {"name": "integrated_gradients", "steps": 4}]
    carry_out(patients.content(output, explainers=more), extend=True)
    found = open_store(output).load().attribution_record
    assert list(found.explainer.values) == ["gradcam", "integrated_gradients"] and verify(output) == []
    assert np.isfinite(found.sel(explainer="integrated_gradients")).all()


def test_the_forecast_counts_records(patients: Patients, output: Location) -> None:
    cost = prepared(patients.content(output, explainers=["saliency"])).cost
    image, maps, affine, mask, numbers = 256 * 4, 256 * 4, 16 * 8, 256, 2 * 4 + 2 * 4 + 4 + 1 + 1
    record = 2 * 4 + 2 * 4 + 2 * 4
    assert cost.bytes_stored == 6 * (image + maps + affine + mask + numbers + record)


def test_another_record_is_another_run(patients: Patients, output: Location) -> None:
    content = patients.content(output)
    carry_out(content)
    content["cohort"]["record"] = [RECORD[0] | {"fill": 61}, RECORD[1]]
    with pytest.raises(ConfigurationError, match=r"cohort\.record: "):
        prepared(content)
    turned = content | {"cohort": content["cohort"] | {"record": RECORD[::-1]}}
    digests = [prepared(one, overwrite=True).plan.part_digests for one in (content, turned)]
    assert digests[0] != digests[1]


REFUSED: dict[str, tuple[Any, str]] = {
    "a column that is not there": (["age", "weight"], "no column `weight` .cohort.record."),
    "a column twice": (["age", "Age "], "record: age is named twice"),
    "more than the network takes": ([*RECORD, "id"], "a record of shape"),
    "none of a network that takes one": ([], "takes a second input"),
    "something else": ([{"name": "age", "fil": 3}], "fil"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_records_that_cannot_be_are_refused(what: str, patients: Patients, output: Location) -> None:
    record, said = REFUSED[what]
    content = patients.content(output)
    content["cohort"]["record"] = record
    with pytest.raises(ValueError, match=said):
        prepared(content)


def test_a_folder_has_no_records(patients: Patients, output: Location) -> None:
    content = patients.content(output)
    content["cohort"]["source"] = str(patients.folder)
    with pytest.raises(ValueError, match="record is for what a table says"):
        prepared(content)


def test_files_are_found_by_pseudonym_beside_a_record(patients: Patients, output: Location) -> None:
    config = RunConfig.model_validate(patients.content(output))
    plan = prepared(patients.content(output)).plan
    assert which(config.cohort, plan.key, ["id-3"]) == {"id-3": (str(patients.folder / "3.npy"),)}


def test_the_report_says_how_much_fields_count(patients: Patients, output: Location) -> None:
    carry_out(patients.content(output), report=True)
    dataset = open_store(output).load()
    page = (output / "report/index.html").read().decode()
    assert "Which modality mattered?" in page
    assert "Fields of the record" in page
    assert '<th scope="col" class="number">Age</th><th scope="col" class="number">sex</th>' in page
    means = np.abs(dataset.attribution_record.sel(explainer="occlusion")).mean(("image_id", "target")).values
    cells = "".join(f'<td class="number">{mean:.3g}</td>' for mean in means)
    assert f'<th scope="row">occlusion</th>{cells}' in page
    age, sex = dataset.attribution_record[0, 0, 0].values
    named = sorted((("Age", age), ("sex", sex)), key=lambda pair: -abs(pair[1]))
    listed = ", ".join(f"{name} ({number(value, sign='+')})" for name, value in named)
    assert f"By saliency, these fields count most: {listed}." in page
