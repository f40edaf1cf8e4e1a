"""A survey of slides: the files of a series are one, and no file is held."""

from hashlib import sha256
from pathlib import Path

import pytest

from tasks.cohort.config import CohortConfig
from tasks.cohort.pseudonyms import Key
from tasks.cohort.survey import Survey, survey
from tasks.storage.location import Location
from tests.tasks.slides.made import glass, with_tissue, write_dicom, write_svs, write_tiff


def surveyed(folder: Path) -> Survey:
    slides = {"level": 0, "tile": 32, "tiles": 8}
    config = CohortConfig.model_validate({"source": str(folder), "identifiers": "as given", "slides": slides})
    return survey(config, 3, Key.make())


def test_a_folder_holds_slides_and_series_of_files_that_are_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Location, "read", None)  # which would hold a whole file
    pixels = with_tissue(0, 0, 64, 64)
    paths = write_dicom(tmp_path / "series", pixels, levels=3)
    write_tiff(tmp_path / "a.tif", pixels)
    write_svs(tmp_path / "b.svs", pixels, glass(64, 64))
    (tmp_path / "notes.txt").write_text("not a slide")
    found = {entry.id: entry for entry in surveyed(tmp_path).entries}
    assert set(found) == {"a.tif", "b.svs", "notes.txt", "series/0.dcm"}
    series = found["series/0.dcm"]
    assert {fact.digest for fact in series.facts} == {sha256(path.read_bytes()).hexdigest() for path in paths}
    assert (series.format, series.facts[0].modality, series.reason) == ("dicom", "SM", None)
    assert series.subject and "Doe" not in series.subject
    assert found["a.tif"].digest == sha256((tmp_path / "a.tif").read_bytes()).hexdigest()
    assert found["a.tif"].reason is None and found["b.svs"].reason is None
    assert (found["notes.txt"].reason or "").startswith("no slide: expected TIFF")


def test_what_is_known_by_its_stamp_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiff(tmp_path / "a.tif", with_tissue(0, 0, 64, 64))
    config = CohortConfig.model_validate(
        {"source": str(tmp_path), "identifiers": "as given", "slides": {"level": 0, "tile": 32, "tiles": 8}}
    )
    key = Key.make()
    before = survey(config, 3, key).entries
    monkeypatch.setattr(Location, "open", None)
    facts = {fact.file: fact for entry in before for fact in entry.facts}
    assert survey(config, 3, key, known=facts).entries == before
