"""The worklist's tables, held against the store as xarray reads it."""

import json
from io import BytesIO
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from tasks.storage.location import Location
from tasks.store.template import STATUS, open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tasks.viewer import worklist
from tasks.viewer.worklist import NAME, ROWS, write_worklist
from tests.tasks.outputs import Cohort, carry_out, explained, planned


def table(output: Location, name: str = NAME) -> tuple[dict[str, list[Any]], dict[str, dict[str, Any]]]:
    """The values of a table, and how it describes its columns, by name."""
    found = pq.ParquetFile(BytesIO((output / name).read()))
    told = json.loads(found.metadata.metadata[b"cohortlens"])
    assert told["plan_digest"] == open_store(output).attrs["plan_digest"]
    return found.read().to_pydict(), {column["name"]: column for column in told["columns"]}


@pytest.fixture
def finished(cohort: Cohort, output: Location) -> Location:
    """A finished output with a metric, one image without pixels, and one that cannot be read."""
    np.save(cohort.folder / "3.npy", np.ones((16, 16), np.float32))
    (cohort.folder / "5.npy").write_bytes(b"no image")
    carry_out(cohort.content(output, metrics=["gini", "hit_rate"]))
    return output


def test_every_image_has_the_numbers_that_are_stored_of_it(finished: Location) -> None:
    write_worklist(finished)
    values, columns = table(finished)
    store = open_store(finished).load()
    assert list(values) == list(columns)
    assert values["id"] == store["image_id"].values.tolist()
    assert values["status"] == [STATUS[code] for code in store["status"].values]
    for name, column in columns.items():
        if column["kind"] in ("number", "flags") and column.get("variable"):
            expected = store[column["variable"]].sel(column.get("at", {})).values
            assert np.array_equal(np.array(values[name], expected.dtype), expected, equal_nan=True), name
    target = str(store["target"].values[0])
    gini = f"metric_gini/{target}/saliency"
    assert {gini, "probability/a", "image_flags", f"map_flags/{target}/smoothgrad"} <= columns.keys()
    assert columns[gini]["better"] == "higher" and np.isfinite(values[gini][0])
    assert columns["image_flags"]["flags"]["constant"] == 1 and values["image_flags"][3] & 1
    assert not any("attribution" in name or "affine" in name for name in columns)


def test_predictions_are_held_against_labels(cohort: Cohort, output: Location) -> None:
    (cohort.folder / "5.npy").write_bytes(b"no image")
    content = cohort.content(output)
    content["cohort"]["label_map"] = {"l0": "a", "l1": "b", "l2": "a", "l5": "a"}
    carry_out(content)
    write_worklist(output)
    values, _ = table(output)
    probability = open_store(output)["probability"].values
    for row in range(10):
        is_explained = row != 5
        likeliest = "ab"[int(probability[row].argmax())] if is_explained else ""
        assert values["predicted"][row] == likeliest
        right = values["label"][row] == likeliest if row in (0, 1, 2) else None
        assert values["right"][row] is right
    assert (
        np.isnan(values["certainty"][5]) and values["reason"][5].startswith("not a known") and values["reason"][4] == ""
    )


def test_rows_are_found_by_id(finished: Location) -> None:
    write_worklist(finished)
    rows, _ = table(finished, ROWS)
    ids = open_store(finished)["image_id"].values.tolist()
    assert rows["id"] == sorted(ids) and [ids[row] for row in rows["row"]] == rows["id"]


def test_the_same_store_has_the_same_worklist_however_it_is_read(
    finished: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_worklist(finished)
    first = [(finished / name).read() for name in (NAME, ROWS)]
    values = table(finished)
    write_worklist(finished)
    assert [(finished / name).read() for name in (NAME, ROWS)] == first
    monkeypatch.setattr(worklist, "_GROUP_ROWS", 5)
    write_worklist(finished)
    assert repr(table(finished)) == repr(values)
    assert verify(finished) == []


def test_nothing_of_a_withdrawn_subject_is_left(finished: Location) -> None:
    write_worklist(finished)
    withdraw(finished, "patient-1")
    values, _ = table(finished)
    assert [values[name][2:4] for name in ("id", "status", "label", "subject", "predicted", "right", "present")] == [
        ["withdrawn-2", "withdrawn-3"], ["withdrawn"] * 2, [""] * 2, [""] * 2, [""] * 2, [None] * 2, [None] * 2
    ]  # fmt: skip
    assert np.isnan(values["probability/a"][2:4]).all()
    assert "id-2" not in table(finished, ROWS)[0]["id"]


def test_where_it_cannot_be_written_anew_a_withdrawal_takes_it_away(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    write_worklist(output)
    cohort.add([10, 11])
    planned(cohort.content(output))
    explained(output, [0, 1])
    assert not withdraw(output, "patient-1").whole
    assert not (output / NAME).exists() and not (output / ROWS).exists()
