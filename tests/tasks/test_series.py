"""Folders with series: which files become one image, in a folder and by a cohort table, and what is set aside."""

import logging
from pathlib import Path

import nibabel
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from tasks.cohort.config import CohortConfig
from tasks.cohort.packed_entries import known_files
from tasks.cohort.pseudonyms import Key
from tasks.cohort.survey import Survey, survey
from tasks.plan import manifest
from tasks.storage.location import Location
from tests.tasks.readers.test_dicom import OBLIQUE, dataset, encode, plane

DICOMDIR, REPORT = (Path(str(get_testdata_file(name, download=False))) for name in ("DICOMDIR", "reportsi.dcm"))


def fill(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def volume(name: str = "s", slices: int = 4, **elements: object) -> dict[str, bytes]:
    return {f"{name}{number}.dcm": plane(3.0 * number, **elements) for number in range(slices)}


def multi_frame(level: int) -> bytes:
    frames = np.full((3, 4, 6), level, np.uint16)
    return encode(dataset(frames, Rows=4, Columns=6, NumberOfFrames=3))


MULTI_FRAME = multi_frame(1)

BESIDE = {
    "localizer.dcm": plane(1.0, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]),
    "coronal.dcm": plane(1.0, orientation=OBLIQUE),
    "another size.dcm": encode(dataset(np.zeros((8, 8), np.uint16))),
}
"""Pictures of the volume's own series."""

NO_IMAGES = {
    "DICOMDIR": DICOMDIR.read_bytes(),
    "Thumbs.db": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500),
    "report.dcm": REPORT.read_bytes(),
    ".DS_Store": b"\x00\x00\x00\x01Bud1" + bytes(100),
}


def found(source: Path, key: Key | None = None, **how: object) -> Survey:
    config = CohortConfig.model_validate({"source": str(source), "identifiers": "as given"})
    return survey(config, 3, key or Key.make(), **how)  # type: ignore[arg-type]


def files_of(surveyed: Survey) -> dict[str, list[str]]:
    """The names of the files of each image that is not quarantined."""
    return {
        entry.id: [Path(uri).name for uri in source.uris]
        for entry in surveyed.entries
        if not entry.reason and (source := surveyed.sources(entry.id))
    }


def by_table(folder: Path, *rows: str) -> Survey:
    (folder / "cohort.csv").write_text("\n".join(["uri", *rows]))
    return found(folder / "cohort.csv")


def test_what_lies_beside_a_volume_is_set_aside_by_itself(tmp_path: Path) -> None:
    slices = volume()
    surveyed = found(fill(tmp_path / "p", slices | BESIDE | NO_IMAGES).parent)
    assert files_of(surveyed).pop("p/s0.dcm") == sorted(slices)
    assert files_of(surveyed) == {"p/s0.dcm": sorted(slices)} | {f"p/{name}": [name] for name in BESIDE}
    reasons = {entry.id: entry.reason for entry in surveyed.entries if entry.reason}
    assert reasons.keys() == {f"p/{name}" for name in NO_IMAGES if not name.startswith(".")}
    assert "Media Storage Directory" in str(reasons["p/DICOMDIR"])
    assert "Basic Text SR" in str(reasons["p/report.dcm"])
    assert "not a known image format" in str(reasons["p/Thumbs.db"])


def test_each_multi_frame_object_of_a_series_is_an_image(tmp_path: Path) -> None:
    whole = {f"{level}.dcm": multi_frame(level) for level in (1, 2)}
    surveyed = found(fill(tmp_path, whole | {"cut.dcm": multi_frame(3)[:200]} | volume()))
    assert files_of(surveyed) == {"1.dcm": ["1.dcm"], "2.dcm": ["2.dcm"], "s0.dcm": sorted(volume())}
    assert [entry.id for entry in surveyed.entries if entry.reason] == ["cut.dcm"]


def test_cosines_that_are_rounded_differently_are_of_one_volume(tmp_path: Path) -> None:
    axes = [[0.7071, 0.7071, 0, 0, 0, -1], [0.70710678, 0.70710678, 0, 0, 0, -1], [0.707, 0.707, 0, 0, 0, -1]]
    slices = {f"{number}.dcm": plane(3.0 * number, orientation=axes[number % 3]) for number in range(6)}
    assert files_of(found(fill(tmp_path, slices))) == {"0.dcm": sorted(slices)}


def test_a_copy_counts_once_towards_the_size(tmp_path: Path) -> None:
    slices = volume()
    fill(tmp_path / "p", slices | {f"copy {name}": data for name, data in slices.items()})
    config = CohortConfig.model_validate({"source": str(tmp_path), "largest_image": 4 * 4 * 6 * 4})
    (entry,) = survey(config, 3, Key.make()).entries
    assert entry.reason is None


def test_a_table_names_the_volume_of_a_folder_whatever_lies_beside(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slices = volume()
    scout = {"other scout.dcm": plane(1.0, orientation=OBLIQUE, SeriesInstanceUID="1.9")}
    copies = {f"copy of {name}": slices[name] for name in ("s1.dcm", "s3.dcm")}
    fill(tmp_path / "p", slices | BESIDE | NO_IMAGES | scout | copies)
    Image.fromarray(np.zeros((4, 5), np.uint8)).save(tmp_path / "p" / "screenshot.png")
    with caplog.at_level(logging.WARNING, "tasks"):
        surveyed = by_table(tmp_path, "p/")
    files = files_of(surveyed)["p"]
    assert sorted(name.removeprefix("copy of ") for name in files) == sorted(slices)
    left_out = len(BESIDE) + len(scout) + len(copies) + len(["DICOMDIR", "Thumbs.db", "report.dcm", "screenshot.png"])
    assert f"{left_out} files in folders that the cohort table names are left out" in caplog.text


@pytest.mark.parametrize(
    ("files", "reason"),
    [
        (
            volume("one") | volume("two", SeriesInstanceUID="1.9"),
            "the folder holds 2 series, of 4 and 4 files: name the folder of one",
        ),
        (
            volume("one") | volume("two", 2, SeriesInstanceUID="1.9") | volume("three", 3, SeriesInstanceUID="1.8"),
            "the folder holds 3 series, of 4, 3 and 2 files: name the folder of one",
        ),
        (
            volume("one") | {"t.dcm": plane(13.5, SeriesInstanceUID="1.9")},
            "the folder holds 2 series, of 4 and 1 files: name the folder of one",
        ),
        (
            volume("one") | volume("two", 3, orientation=OBLIQUE),
            "the folder holds 2 volumes in 1 series, of 4 and 3 files: put each into a folder of its own",
        ),
        (
            {"1.dcm": multi_frame(1), "2.dcm": multi_frame(2)},
            "the folder holds 2 images, of which some are multi-frame objects: name the file of one",
        ),
        (
            volume("one") | {"cut.dcm": plane(12.0)[:200]},
            "1 of the 5 files of the folder cannot be read: damaged",
        ),
        (
            {
                name: nibabel.Nifti1Image(np.full((4, 5, 6), 1.0 + len(name)), np.eye(4)).to_bytes()
                for name in ("a", "bc")
            },
            "the folder holds 2 images, and only DICOM has series: name the file of one",
        ),
        (
            {f"{level}.dcm": plane(level, ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"]) for level in range(3)},
            "the folder holds 3 pictures and no volume: name the file of one",
        ),
        (NO_IMAGES, "none of the 3 files of the folder is an image"),
    ],
    ids=[
        "two series",
        "three",
        "a stray slice",
        "orientations",
        "multi-frame",
        "damaged",
        "NIfTI",
        "localizers",
        "no image",
    ],
)
def test_a_folder_that_holds_no_single_volume_is_refused_with_the_numbers(
    tmp_path: Path, files: dict[str, bytes], reason: str
) -> None:
    fill(tmp_path / "p", files)
    fill(tmp_path / "q", volume())
    surveyed = by_table(tmp_path, "p/", "q/")
    refused, kept = surveyed.entries
    assert str(refused.reason).startswith(reason) and kept.reason is None


@pytest.mark.parametrize(
    "files",
    [
        {"a.dcm": MULTI_FRAME, "copy.dcm": MULTI_FRAME} | NO_IMAGES | BESIDE,
        {"v.nii": nibabel.Nifti1Image(np.ones((4, 5, 6)), np.eye(4)).to_bytes(), "v.json": b'{"EchoTime": 0.1}'},
    ],
    ids=["multi-frame", "NIfTI with a sidecar"],
)
def test_a_folder_may_hold_one_whole_volume(tmp_path: Path, files: dict[str, bytes]) -> None:
    fill(tmp_path / "p", files)
    assert files_of(by_table(tmp_path, "p/")) == {"p": [next(iter(files))]}


def test_the_manifest_keeps_what_series_are_joined_by(tmp_path: Path) -> None:
    key = Key.make()
    source = fill(tmp_path / "p", volume() | BESIDE | {"m.dcm": multi_frame(1)})
    first = found(source, key)
    output = Location(url=str(tmp_path / "output"))
    manifest.write(output, first.entries, 10)
    kept = manifest.read(output)
    assert kept == first.entries
    again = found(source, key, known=known_files(kept))
    assert again.entries == first.entries and files_of(again) == files_of(first)
