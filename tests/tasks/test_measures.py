"""Measures through a run: read from the table and from masks, stored, verified, withdrawn, and shown on the page."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, prepared, promised, stored

TITLE = "pooled_activations"
RESULT = {"name": "rcv", "measures": ["brightness", "noise"], "of_mask": ["area"]}


@pytest.fixture
def cohort(tmp_path: Path) -> Cohort:
    """24 pictures of differing brightness, with a table that measures it, but for the first two."""
    cohort = Cohort(tmp_path / "cohort", range(24))
    generator = np.random.default_rng(0)
    brightness = generator.uniform(0, 3, 24).round(3)
    for number in range(24):
        path = cohort.folder / f"{number}.npy"
        np.save(path, np.load(path) + np.float32(brightness[number]))
    table = pd.read_csv(cohort.folder / "manifest.csv").assign(label="", noise=generator.normal(size=24).round(3))
    table["brightness"] = [None, None, *brightness[2:]]
    table.to_csv(cohort.folder / "manifest.csv", index=False)
    return cohort


def content(
    cohort: Cohort, output: Location, measures: Any = ("brightness", "noise"), **changes: Any
) -> dict[str, Any]:
    asked = {"explainers": [TITLE], "results": [RESULT], "target": {"name": "classes", "classes": ["a", "b"]}}
    found = cohort.content(output, **asked | {"compute": {"batch_size": 16}} | changes)
    return found | {"cohort": found["cohort"] | {"measures": list(measures), "columns": {"uri": "uri"}}}


def edit(cohort: Cohort, column: str, row: int, value: Any) -> None:
    path = cohort.folder / "manifest.csv"
    table = pd.read_csv(path).astype({column: object})
    table.loc[row, column] = value
    table.to_csv(path, index=False)


def test_measures_are_stored_shown_and_withdrawn(cohort: Cohort, output: Location) -> None:
    assert carry_out(content(cohort, output), report=True).explained == 24
    assert verify(output) == []
    dataset = open_store(output).load()
    assert list(dataset.rcv_measure.values) == ["brightness", "noise", "mask_area"]
    assert dataset.rcv_br.dims == ("rcv_measure", "class")
    assert dataset.rcv_direction.dims == ("rcv_measure", f"{TITLE}_feature")
    table = pd.read_csv(cohort.folder / "manifest.csv")
    areas = [(np.load(cohort.folder / f"{number}-mask.npy") == 1).sum() for number in range(24)]
    expected = np.column_stack([table.brightness, table.noise, areas])
    np.testing.assert_array_equal(dataset.rcv_value.values, expected)
    assert dataset.rcv_images.values.tolist() == [22, 24, 24] and dataset.rcv_missing.values.tolist() == [2, 0, 0]
    assert dataset.rcv_r2.values[0] > 0.9 and dataset.rcv_flags.values.tolist()[:2] == [0, 8]
    page = (output / "report/index.html").read().decode()
    assert "<h3>Measures</h3>" in page and "no better than a shuffled one" in page
    for number in (1, 2):  # which leaves 18 of the first measure
        assert withdraw(output, f"patient-{number}").whole
    assert verify(output) == []
    after = open_store(output).load()
    assert after.rcv_flags.values.tolist()[0] == 1 and after.rcv_images.values.tolist() == [18, 20, 20]
    assert np.isnan(after.rcv_value.values[2:6]).all() and np.isnan(after.rcv_br.values[0]).all()
    assert not any(entry.measures for entry in promised(output)[1] if entry.withdrawn)
    again = stored(output)
    assert carry_out(content(cohort, output)).withdrawn == 4
    assert stored(output) == again


def test_measures_can_be_added_later_and_change_without_an_image_being_explained_again(
    cohort: Cohort, output: Location
) -> None:
    carry_out(content(cohort, output, measures=(), results=[]))
    before = {key: value for key, value in stored(output).items() if key.startswith(TITLE)}
    carry_out(content(cohort, output))
    first = open_store(output).load().rcv_value.values
    edit(cohort, "brightness", 4, 9.5)
    carry_out(content(cohort, output))
    second = open_store(output).load().rcv_value.values
    assert second[4, 0] == 9.5 and np.array_equal(np.delete(first, 4, 0), np.delete(second, 4, 0), equal_nan=True)
    assert {key: value for key, value in stored(output).items() if key.startswith(TITLE)} == before
    assert verify(output) == []


@pytest.mark.parametrize(
    ("cell", "said"),
    [
        ("3,5", "the 'brightness' in row 5 of .* is no number, as a measure has to be"),
        ("1e999", "the 'brightness' in row 5 of .* is no number"),
    ],
)
def test_a_cell_that_is_no_number_is_refused(cell: str, said: str, cohort: Cohort, output: Location) -> None:
    edit(cohort, "brightness", 4, cell)
    with pytest.raises(ValueError, match=said) as refused:
        prepared(content(cohort, output))
    assert cell not in str(refused.value)


def test_a_constant_measure_is_refused_with_its_value(cohort: Cohort, output: Location) -> None:
    path = cohort.folder / "manifest.csv"
    pd.read_csv(path).assign(noise=61.5).to_csv(path, index=False)
    with pytest.raises(ValueError, match=r"'noise' is 61.5 in all 24 images that have it, and a constant measure"):
        prepared(content(cohort, output))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"measures": ["brightness"]}, "cohort.measures: rcv is computed from 'noise', which is not named there"),
        ({"measures": ["brightness", "noise", "age"]}, r"no column `age` \(cohort.measures\)"),
        ({"measures": ["noise", "Noise"]}, "measures: noise is named twice"),
        ({"results": [{"name": "rcv", "measures": ["noise"], "of": "early"}]}, "rcv is computed from early"),
    ],
)
def test_what_cannot_be_measured_is_refused(
    changes: dict[str, Any], said: str, cohort: Cohort, output: Location
) -> None:
    with pytest.raises(ValueError, match=said):
        prepared(content(cohort, output, **changes))


def test_a_measure_that_a_stored_result_needs_cannot_be_left_out(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output))
    with pytest.raises(ValueError, match="rcv is computed from 'noise', which is not named there"):
        prepared(content(cohort, output, measures=["brightness"], results=[]))


def test_masks_that_are_not_there_are_not_measured(cohort: Cohort, output: Location) -> None:
    path = cohort.folder / "manifest.csv"
    pd.read_csv(path).drop(columns="mask").to_csv(path, index=False)
    with pytest.raises(ValueError, match="rcv: no image of the cohort has a mask to measure"):
        prepared(content(cohort, output))


def test_a_page_without_measures_has_no_section_of_them(cohort: Cohort, output: Location) -> None:
    carry_out(content(cohort, output, measures=(), results=[]), report=True)
    assert b"<h3>Measures" not in (output / "report/index.html").read()
