import csv
import hashlib
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.cohort import CohortConfig, survey
from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tasks.manifest import Entry

RNG = np.random.default_rng(9)


def picture(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(RNG.integers(0, 256, (4, 5)).astype(np.uint8)).save(path)
    return path


def series(folder: Path, name: str, slices: int = 3) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    pixels = RNG.random((slices, 4, 5), np.float32)
    paths = [folder / f"{name}-{number}.dcm" for number in range(slices)]
    for path, data in zip(paths, dicom_slices(Phantom(pixels, pixels > 2, np.eye(4)), name), strict=True):
        path.write_bytes(data)
    return paths


def table(path: Path, rows: Sequence[dict[str, object]]) -> Path:
    frame = pd.DataFrame(rows)
    frame.to_csv(path, index=False) if path.suffix == ".csv" else frame.to_parquet(path)
    return path


def surveyed(source: Path | str, spatial_dims: int = 2) -> list[Entry]:
    return survey(CohortConfig.model_validate({"source": str(source)}), spatial_dims)


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_folder_is_surveyed_with_its_subfolders_and_without_hidden_files(tmp_path: Path) -> None:
    kept = [picture(tmp_path / name) for name in ("a.png", "b/a.png", "b/c.png")]
    for name in (".hidden.png", ".cache/d.png", "b/.e/f.png"):
        picture(tmp_path / name)
    found = surveyed(tmp_path)
    assert [entry.uris for entry in found] == [(str(path),) for path in kept]
    assert [entry.digest for entry in found] == [sha256(path) for path in kept]
    assert {(entry.format, entry.reason, entry.label, entry.mask) for entry in found} == {("png", None, None, None)}


def test_a_folder_below_a_hidden_one_is_surveyed(tmp_path: Path) -> None:
    picture(tmp_path / ".data" / "a.png")
    assert len(surveyed(tmp_path / ".data")) == 1
    assert len(surveyed(tmp_path / ".data" / "*.png")) == 1


@pytest.mark.parametrize("pattern", ["scan-*.png", "scan-?.png", "scan-[ab].png", "**/scan-*.png"])
def test_a_glob_narrows_the_source(tmp_path: Path, pattern: str) -> None:
    wanted = [str(picture(tmp_path / name)) for name in ("scan-a.png", "scan-b.png")]
    picture(tmp_path / "mask-a.png")
    assert [entry.uris[0] for entry in surveyed(tmp_path / pattern)] == wanted


@pytest.mark.parametrize("source", ["", "/", "/*/*.png", "/*/?.png", "/b/[ac].png", "/a.png"])
def test_ids_are_unique_and_do_not_depend_on_where_the_cohort_lies(tmp_path: Path, source: str) -> None:
    for name in ("a.png", "b/a.png", "b/c.png"):
        picture(tmp_path / "here" / name)
    shutil.copytree(tmp_path / "here", tmp_path / "else" / "where")
    ids = [[entry.id for entry in surveyed(f"{tmp_path}/{place}{source}")] for place in ("here", "else/where")]
    assert ids[0] and ids[0] == ids[1]
    assert len(set(ids[0])) == len(ids[0])


def test_the_id_of_a_file_stays_when_others_come(tmp_path: Path) -> None:
    picture(tmp_path / "m.png")
    before = surveyed(tmp_path)[0]
    picture(tmp_path / "a.png")
    assert surveyed(tmp_path)[1] == before
    assert before.id not in (surveyed(tmp_path)[0].id, "m", "m.png")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_names_files_labels_and_masks_relative_to_itself(tmp_path: Path, suffix: str) -> None:
    first, second = picture(tmp_path / "images" / "1.png"), picture(tmp_path / "2.png")
    manifest = table(
        tmp_path / f"cohort{suffix}",
        [
            {"id": "007", "uri": "images/1.png", "label": "tumour", "mask": "masks/1.png"},
            {"id": "8", "uri": str(second), "label": None, "mask": None},
        ],
    )
    assert [replace(entry, facts=()) for entry in surveyed(manifest)] == [
        Entry("007", (str(first),), sha256(first), "png", "tumour", str(tmp_path / "masks" / "1.png")),
        Entry("8", (str(second),), sha256(second), "png"),
    ]


def test_a_manifest_keeps_its_order_and_makes_ids_where_it_has_none(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        picture(tmp_path / "x" / name)
    table(tmp_path / "x" / "cohort.csv", [{"uri": "b.png"}, {"uri": "a.png"}])
    shutil.copytree(tmp_path / "x", tmp_path / "y")
    here, there = (surveyed(tmp_path / folder / "cohort.csv") for folder in ("x", "y"))
    assert [Path(entry.uris[0]).name for entry in here] == ["b.png", "a.png"]
    assert [entry.id for entry in here] == [entry.id for entry in there]
    assert here[0].id != here[1].id


@pytest.mark.parametrize("label", ["NA", "None", "null", "nan", "N/A", "1", "1.0", "true"])
def test_a_label_is_text_whatever_it_looks_like(tmp_path: Path, label: str) -> None:
    picture(tmp_path / "a.png")
    manifest = table(tmp_path / "cohort.csv", [{"id": label, "uri": "a.png", "label": label}])
    assert [(entry.id, entry.label) for entry in surveyed(manifest)] == [(label, label)]


def test_whole_numbers_are_ids_too(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    assert surveyed(table(tmp_path / "cohort.parquet", [{"id": 12, "uri": "a.png", "label": 0}]))[0].id == "12"


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([{"uri": "a.png", "patient": "Doe"}], r"columns \['uri', 'patient'\].*`uri` is needed"),
        ([{"id": "1", "label": "a"}], "`uri` is needed"),
        ([{"id": "1", "uri": "a.png"}, {"id": "1", "uri": "b.png"}], "names 1 ids more than once, such as '1'"),
        ([{"uri": "a.png"}, {"uri": "a.png"}], "names 1 ids more than once"),
        ([{"id": "1", "uri": None}, {"id": "2", "uri": "a.png"}], "a row without `uri`"),
    ],
    ids=["unknown column", "no uri", "repeated id", "repeated uri", "empty uri"],
)
def test_an_unusable_manifest_is_refused(
    tmp_path: Path, suffix: str, rows: list[dict[str, object]], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        surveyed(table(tmp_path / f"cohort{suffix}", rows))


@pytest.mark.parametrize(
    ("source", "message"),
    [("", "no files at"), ("*.png", "no files at"), ("absent", "no files at"), ("absent.csv", "no manifest")],
)
def test_an_empty_source_is_refused(tmp_path: Path, source: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"cohort.source: there (is|are) {message} .*{tmp_path.name}"):
        surveyed(tmp_path / source)


def test_a_manifest_without_rows_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cohort.csv").write_text("id,uri\n")
    with pytest.raises(ValueError, match="no files at"):
        surveyed(tmp_path / "cohort.csv")


def test_what_is_no_image_is_quarantined_with_a_reason(tmp_path: Path) -> None:
    good = picture(tmp_path / "good.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "empty.png").touch()
    (tmp_path / "header.dcm").write_bytes(series(tmp_path / "other", "s", 1)[0].read_bytes()[:200])
    names = ["absent.png", "notes.txt", "empty.png", "header.dcm", "other", "no-such-folder/", "good.png"]
    found = surveyed(table(tmp_path / "cohort.csv", [{"id": name, "uri": name} for name in names]))
    reasons = {entry.id: entry.reason for entry in found}
    assert list(reasons) == names
    assert reasons["good.png"] is None and found[-1].digest == sha256(good)
    expected = {
        "absent.png": "cannot be opened (FileNotFoundError): check the manifest",
        "notes.txt": "not a known image format",
        "empty.png": "the file is empty",
        "header.dcm": "DICOM",
        "other": "cannot be opened (IsADirectoryError)",
        "no-such-folder/": "cannot be opened (FileNotFoundError)",
    }
    for name, text in expected.items():
        assert text in str(reasons[name])
    assert {entry.digest for entry in found[:-1]} == {None}


def test_the_slices_of_a_series_are_one_volume_or_many_pictures(tmp_path: Path) -> None:
    slices = series(tmp_path, "s", 4)
    (volume,) = surveyed(tmp_path, 3)
    assert volume.uris == tuple(map(str, slices)) and volume.format == "dicom"
    assert volume.digest == hashlib.sha256("".join(map(sha256, slices)).encode()).hexdigest()
    pictures = surveyed(tmp_path, 2)
    assert [(entry.uris, entry.digest) for entry in pictures] == [((str(path),), sha256(path)) for path in slices]


def test_series_are_told_apart_by_uid_and_by_folder(tmp_path: Path) -> None:
    # Two series in one folder, their files mixed; and one of the same UID in another folder.
    one = [path.rename(path.with_name(f"{number}-one.dcm")) for number, path in enumerate(series(tmp_path, "one"))]
    two = [path.rename(path.with_name(f"{number}-two.dcm")) for number, path in enumerate(series(tmp_path, "two", 2))]
    copy = series(tmp_path / "copy", "one")
    loose = picture(tmp_path / "loose.png")
    found = surveyed(tmp_path, 3)
    assert {entry.uris for entry in found} == {tuple(map(str, paths)) for paths in (one, two, copy, [loose])}
    assert len({entry.id for entry in found}) == 4


def test_a_damaged_slice_is_quarantined_by_itself(tmp_path: Path) -> None:
    slices = series(tmp_path, "s")
    slices[1].write_bytes(slices[1].read_bytes()[:200])
    whole, damaged = sorted(surveyed(tmp_path, 3), key=lambda entry: entry.reason or "")
    assert whole.uris == (str(slices[0]), str(slices[2])) and whole.reason is None
    assert damaged.uris == (str(slices[1]),) and damaged.reason


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_manifests_uri_that_ends_in_a_slash_is_one_series(tmp_path: Path, spatial_dims: int) -> None:
    slices = series(tmp_path / "scans" / "7", "s")
    manifest = table(tmp_path / "cohort.csv", [{"id": "7", "uri": "scans/7/"}])
    assert [entry.uris for entry in surveyed(manifest, spatial_dims)] == [tuple(map(str, slices))]


def test_the_digest_of_a_series_changes_with_any_slice(tmp_path: Path) -> None:
    slices = series(tmp_path, "s")
    digests = {surveyed(tmp_path, 3)[0].digest}
    for path in slices:
        data = bytearray(path.read_bytes())
        data[-1] ^= 1
        path.write_bytes(data)
        digests.add(surveyed(tmp_path, 3)[0].digest)
    assert len(digests) == 4


def test_progress_counts_files_to_the_last(tmp_path: Path) -> None:
    series(tmp_path, "s", 3)
    picture(tmp_path / "a.png")
    calls: list[tuple[int, int]] = []
    survey(CohortConfig.model_validate({"source": str(tmp_path)}), 3, lambda done, of: calls.append((done, of)))
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_file_that_two_rows_name_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    manifest = table(tmp_path / "cohort.csv", [{"id": "1", "uri": "a.png"}, {"id": "2", "uri": "a.png"}])
    calls: list[tuple[int, int]] = []
    found = survey(CohortConfig.model_validate({"source": str(manifest)}), 2, lambda done, of: calls.append((done, of)))
    assert [entry.id for entry in found] == ["1", "2"] and calls == [(1, 1)]


def test_the_demo_cohort_is_surveyed_as_its_manifest_says(slices: Path) -> None:
    with slices.open() as file:
        rows = list(csv.DictReader(file))
    found = surveyed(slices)
    assert [(entry.id, entry.label or "") for entry in found] == [(row["id"], row["label"]) for row in rows]
    assert [entry.format for entry in found[:3]] == ["dicom", "nifti", "png"]
    assert not any(entry.reason for entry in found if entry.label)
