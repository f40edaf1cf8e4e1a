"""Runs that are about some images of a cohort; the others stay in the output as they are."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
import tifffile
from pydantic import ValidationError

from tasks.cohort.config import CohortConfig
from tasks.cohort.pseudonyms import Key
from tasks.cohort.selection import SCHEDULED, Selection
from tasks.cohort.survey import survey
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tests.integration.markers import encode, pictures, planted
from tests.tasks.outputs import Cohort, carry_out, promised, stored
from tests.tasks.test_cohort import picture, series

NIGHT = datetime(2026, 3, 1, 2, tzinfo=UTC)
HOUR = timedelta(hours=1)


def stored_at(time: datetime, paths: Sequence[Path]) -> None:
    for path in paths:
        os.utime(path, (time.timestamp(), time.timestamp()))


def selected(folder: Path, only: Selection, spatial_dims: int = 2) -> tuple[list[str], set[str]]:
    config = CohortConfig.model_validate({"source": f"{folder}/", "identifiers": "as given"})
    found = survey(config, spatial_dims, Key.make(), only=only)
    assert all(found.sources(id) for id in (*(entry.id for entry in found.entries), *found.unselected))
    return [entry.id for entry in found.entries], set(found.unselected)


def test_times_are_those_that_storage_tells(tmp_path: Path, bucket: Location) -> None:
    before = datetime.now(UTC) - timedelta(seconds=2)
    for folder in (Location(url=str(tmp_path)), bucket):
        (folder / "a.bin").write(b"a")
        times = folder.times_of([(folder / name).url for name in ("a.bin", "b.bin")])
        assert list(times) == [(folder / "a.bin").url]
        assert before < times[(folder / "a.bin").url] < datetime.now(UTC) + timedelta(seconds=2)


def test_files_are_selected_by_when_they_were_stored(tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "b.png", "c.png")):
        stored_at(NIGHT + number * HOUR, [picture(tmp_path / name)])
    assert selected(tmp_path, Selection(modified_before=NIGHT + HOUR)) == (["a.png"], {"b.png", "c.png"})
    assert selected(tmp_path, Selection(modified_after=NIGHT + HOUR)) == (["b.png", "c.png"], {"a.png"})
    both = Selection(modified_after=NIGHT + HOUR, modified_before=NIGHT + 2 * HOUR)
    assert selected(tmp_path, both) == (["b.png"], {"a.png", "c.png"})


def test_a_series_waits_for_its_last_slice(tmp_path: Path) -> None:
    first, second, third = series(tmp_path, "s")
    stored_at(NIGHT, [first, second])
    stored_at(NIGHT + 2 * HOUR, [third])
    assert selected(tmp_path, Selection(modified_before=NIGHT + HOUR), 3) == ([], {"s-0.dcm"})
    assert selected(tmp_path, Selection(modified_before=NIGHT + 3 * HOUR), 3) == (["s-0.dcm"], set())
    assert selected(tmp_path, Selection(modified_after=NIGHT + HOUR), 3) == (["s-0.dcm"], set())


def test_what_is_not_selected_is_not_read(tmp_path: Path) -> None:
    old, new = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    stored_at(NIGHT, [old])
    stored_at(NIGHT + HOUR, [new])
    read: list[tuple[int, int]] = []
    config = CohortConfig.model_validate({"source": f"{tmp_path}/"})
    survey(
        config, 2, Key.make(), lambda done, of: read.append((done, of)), only=Selection(modified_before=NIGHT + HOUR)
    )
    assert read == [(1, 1)]


def test_modalities_are_those_that_dicom_defines(tmp_path: Path) -> None:
    for name, modality, pixels in zip(("ct", "mr", "odd"), ("CT", "MR", "DOE"), pictures(3), strict=False):
        (tmp_path / f"{name}.dcm").write_bytes(encode(planted(pixels, Modality=modality)))
    picture(tmp_path / "a.png")
    assert selected(tmp_path, Selection(modality=("CT",))) == (["ct.dcm"], {"a.png", "mr.dcm", "odd.dcm"})
    with pytest.raises(ValidationError, match="DICOM has no modality DOE"):
        Selection(modality=("DOE",))


def test_scheduled_takes_the_time_it_is_given_and_is_none_itself(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    nightly = Selection.model_validate({"modified_before": SCHEDULED})
    with pytest.raises(ValueError, match="this run has no schedule"):
        selected(tmp_path, nightly)
    assert selected(tmp_path, nightly.at(NIGHT)) == ([], {"a.png"})
    assert Selection(modified_before=NIGHT).at(NIGHT + HOUR).modified_before == NIGHT
    with pytest.raises(ValidationError, match="timezone"):
        Selection.model_validate({"modified_before": "2026-03-01 02:00"})


def test_a_late_run_does_the_work_of_its_night_and_the_next_one_the_rest(tmp_path: Path) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(6)), Location(url=str(tmp_path / "out"))
    files = sorted(cohort.folder.glob("*.npy"))
    stored_at(NIGHT - HOUR, files)
    tonight, tomorrow = Selection(modified_before=NIGHT), Selection(modified_before=NIGHT + 24 * HOUR)
    carry_out(cohort.content(output), only=tonight)
    before, rows = open_store(output).load(), promised(output)[1]

    cohort.add([6, 7])
    cohort.add([1], version=1)
    cohort.take_away([2])
    stored_at(NIGHT + HOUR, [path for path in cohort.folder.glob("*.npy") if path not in files or path.name[0] == "1"])
    summary = carry_out(cohort.content(output), only=tonight)
    assert (summary.images, summary.explained, summary.vanished) == (6, 6, 1)
    assert promised(output)[1][1] == rows[1]
    after = open_store(output).load()
    assert after.attribution.values.tobytes() == before.attribution.values.tobytes()

    summary = carry_out(cohort.content(output), only=tomorrow)
    assert (summary.images, summary.explained) == (8, 8)
    after = open_store(output).load()
    assert not np.array_equal(after.image.values[1], before.image.values[1])
    assert verify(output) == []


def test_ids_and_subjects_select_and_others_are_delivered_all_the_same_when_they_are_lost(tmp_path: Path) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(6)), Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output))
    cohort.add([6, 7, 8, 9])
    summary = carry_out(cohort.content(output), only=Selection(ids=("id-6", "patient-4")))
    assert list(open_store(output).image_id.values) == [f"id-{number}" for number in (0, 1, 2, 3, 4, 5, 6, 8, 9)]
    assert (summary.explained, summary.vanished) == (9, 0)

    before = stored(output)
    (output / "commits").remove()
    carry_out(cohort.content(output), only=Selection(ids=("id-6",)))
    assert stored(output) == before
    assert verify(output) == []
    with pytest.raises(ValueError, match="no image of the cohort is selected"):
        carry_out(cohort.content(output), only=Selection(ids=("nobody",)))


def test_the_first_images_are_spread_over_the_cohort_and_no_others_are_read(tmp_path: Path) -> None:
    for number in range(40):
        picture(tmp_path / f"{number:02}.png")
    (tmp_path / "10.png").write_bytes(b"no image")
    read: list[tuple[int, int]] = []
    config = CohortConfig.model_validate({"source": f"{tmp_path}/", "identifiers": "as given"})
    found = survey(config, 2, Key.make(), lambda done, of: read.append((done, of)), only=Selection(first=4))
    assert [entry.id for entry in found.entries] == ["00.png", "11.png", "20.png", "30.png"]
    assert len(found.unselected) == 36 and read[-1] == (4, 4)
    assert selected(tmp_path, Selection(first=4)) == selected(tmp_path, Selection(first=4))
    assert len(selected(tmp_path, Selection(first=90))[0]) == 40
    assert selected(tmp_path, Selection(first=4, modified_before=NIGHT))[0] == []


def test_the_first_images_are_of_those_that_are_selected_otherwise(tmp_path: Path) -> None:
    for number, pixels in enumerate(pictures(12)):
        made = planted(pixels, Modality="CT" if number % 2 else "MR")
        (tmp_path / f"{number:02}.dcm").write_bytes(encode(made))
    assert selected(tmp_path, Selection(first=2, modality=("CT",)))[0] == ["03.dcm", "09.dcm"]
    assert selected(tmp_path, Selection(first=1, ids=("04.dcm", "05.dcm")))[0] == ["05.dcm"]
    series(tmp_path / "volumes", "s")
    assert selected(tmp_path / "volumes", Selection(first=1), 3)[0] == ["s-0.dcm"]
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "a.png").write_bytes(b"no image")
    assert selected(tmp_path / "broken", Selection(first=3))[0] == ["a.png"]


def test_the_first_frames_of_one_file_are_spread_over_it(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "cine.tif", np.zeros((30, 8, 8), np.uint8), photometric="minisblack")
    config = CohortConfig.model_validate({"source": f"{tmp_path}/", "identifiers": "as given", "frames": "images"})
    found = survey(config, 2, Key.make(), only=Selection(first=3))
    assert [entry.id for entry in found.entries] == ["cine.tif#6", "cine.tif#16", "cine.tif#26"]
