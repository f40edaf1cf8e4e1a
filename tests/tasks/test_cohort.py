import csv
import hashlib
import shutil
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from tasks.cohort import rows, sources
from tasks.cohort.config import CohortConfig
from tasks.cohort.pseudonyms import Key
from tasks.cohort.survey import survey, which
from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tasks.storage.location import Location

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


class Found(NamedTuple):
    """Survey an image: its entry, and where it lies."""

    id: str
    uris: tuple[str, ...]
    digest: str | None
    format: str | None
    label: str | None = None
    mask: str | None = None
    reason: str | None = None


def surveyed(source: Path | str, spatial_dims: int = 2, **changes: Any) -> list[Found]:
    config = CohortConfig.model_validate({"source": str(source), "identifiers": "as given", **changes})
    found = survey(config, spatial_dims, Key.make())
    assert len({entry.id for entry in found.entries}) == len(found.entries)
    return [
        Found(entry.id, found.sources(entry.id).uris, entry.digest, entry.format, entry.label, entry.mask, entry.reason)
        for entry in found.entries
    ]


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
    before = surveyed(tmp_path, identifiers="pseudonymous")[0]
    picture(tmp_path / "a.png")
    after = surveyed(tmp_path, identifiers="pseudonymous")
    assert after[1] == before
    assert before.id not in (after[0].id, "m", "m.png")


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_manifest_names_files_labels_and_masks_relative_to_itself(tmp_path: Path, suffix: str) -> None:
    first, second = picture(tmp_path / "images" / "1.png"), picture(tmp_path / "2.png")
    mask = picture(tmp_path / "masks" / "1.png")
    manifest = table(
        tmp_path / f"cohort{suffix}",
        [
            {"id": "007", "uri": "images/1.png", "label": "tumour", "mask": "masks/1.png"},
            {"id": "8", "uri": str(second), "label": None, "mask": None},
        ],
    )
    assert surveyed(manifest) == [
        Found("007", (str(first),), sha256(first), "png", "tumour", sha256(mask)),
        Found("8", (str(second),), sha256(second), "png"),
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
        (
            [{"uri": "a.png", "patient": "Doe"}],
            r"columns that are not known \(counted from the left: 2\): .* `uri` is needed",
        ),
        ([{"id": "1", "label": "a"}], "has no column `uri`: .* `uri` is needed"),
        (
            [{"id": "1", "uri": "a.png"}, {"id": "1", "uri": "b.png"}],
            "names 1 ids more than once, such as in rows 1 and 2",
        ),
        ([{"uri": "a.png"}, {"uri": "a.png"}], "names 1 ids more than once"),
        ([{"id": "1", "uri": None}, {"id": "2", "uri": "a.png"}], "row 1 of .* has no `uri`"),
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
    [("", "no files at"), ("*.png", "no files at"), ("absent", "no files at"), ("absent.csv", "no table")],
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
        "absent.png": "cannot be opened (FileNotFoundError): check the table",
        "notes.txt": "not a known image format",
        "empty.png": "the file is empty",
        "header.dcm": "DICOM",
        "other": "cannot be opened (IsADirectoryError)",
        "no-such-folder/": "the folder is empty, or not there: check the table",
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
    survey(
        CohortConfig.model_validate({"source": str(tmp_path)}), 3, Key.make(), lambda done, of: calls.append((done, of))
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_file_that_two_rows_name_is_read_once(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    manifest = table(tmp_path / "cohort.csv", [{"id": "1", "uri": "a.png"}, {"id": "2", "uri": "a.png"}])
    calls: list[tuple[int, int]] = []
    config = CohortConfig.model_validate({"source": str(manifest)})
    found = survey(config, 2, Key.make(), lambda done, of: calls.append((done, of)))
    assert len(found.entries) == 2 and calls == [(1, 1)]


def test_the_demo_cohort_is_surveyed_as_its_manifest_says(slices: Path) -> None:
    with slices.open() as file:
        rows = list(csv.DictReader(file))
    found = surveyed(slices)
    assert [(entry.id, entry.label or "") for entry in found] == [(row["id"], row["label"]) for row in rows]
    assert [entry.format for entry in found[:3]] == ["dicom", "nifti", "png"]
    assert not any(entry.reason for entry in found if entry.label)


def test_what_an_image_is_called_and_where_it_lies_is_not_written_down(tmp_path: Path) -> None:
    picture(tmp_path / "Doe" / "a.png")
    manifest = table(
        tmp_path / "c.csv", [{"id": "Doe-1", "uri": "Doe/a.png", "mask": "Doe/a.png", "subject": "Doe", "label": "x"}]
    )
    key = Key.make()
    config = CohortConfig.model_validate({"source": str(manifest)})
    found = survey(config, 2, key)
    (entry,) = found.entries
    assert (entry.id, entry.subject) == (key.pseudonym("Doe-1"), key.pseudonym("Doe"))
    assert "Doe" not in repr(found) and str(tmp_path) not in repr(found)
    assert which(config, key, [entry.id]) == {entry.id: (str(tmp_path / "Doe/a.png"),)}
    assert entry.subject and which(config, key, [entry.subject, "nobody"]) == {
        entry.subject: found.sources(entry.id).uris
    }


def test_a_changed_mask_is_noticed(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    manifest = table(tmp_path / "c.csv", [{"uri": "a.png", "mask": "m.png"}])
    masks = []
    for _ in range(2):
        picture(tmp_path / "m.png")
        masks.append(surveyed(manifest)[0].mask)
    assert None not in masks and masks[0] != masks[1]
    (tmp_path / "m.png").unlink()
    assert "its mask: the file cannot be opened (FileNotFoundError)" in str(surveyed(manifest)[0].reason)


def test_no_message_quotes_what_a_manifest_says(tmp_path: Path) -> None:
    path = tmp_path / "c.csv"
    for text in (
        "uri,Doe\na,b",
        "Doe,John\n",
        "uri,id\nDoe,Doe\nJohn,Doe",
        "uri,id\n,Doe",
        'uri\n"Doe',
        "uri\na,b,Doe\n1,2,3,4",
    ):
        path.write_text(text)
        with pytest.raises(ValueError, match=r"cohort\.source") as error:
            surveyed(path)
        shown = "".join(traceback.format_exception(error.value))
        assert "Doe" not in shown.replace(text, "")


def outside(folder: Path) -> dict[str, str]:
    """By what is tried: a name in a manifest in `folder` that leads to a picture beside that folder."""
    secret = picture(folder.parent / "secret" / "s.png")
    (folder / "link.png").symlink_to(secret)
    (folder / "linked").symlink_to(secret.parent)
    return {
        "absolute": str(secret),
        "steps up": "../secret/s.png",
        "steps up within": "a/../../secret/s.png",
        "a link": "link.png",
        "a linked folder": "linked/s.png",
        "a series": "../secret/",
        "a sibling": str(folder) + "-other/s.png",
        "s3": "s3://bucket/s.png",
        "another host": "http://192.0.2.1/s.png",
        "a file URL": f"file://{secret}",
        "home": "/root/s.png",
    }


@pytest.mark.parametrize("column", ["uri", "mask"])
def test_a_manifest_names_nothing_outside_the_root(tmp_path: Path, column: str) -> None:
    folder = tmp_path / "cohort"
    picture(folder / "a.png")
    picture(tmp_path / "cohort-other" / "s.png")
    names = outside(folder)
    assert len(names) == 11
    for tried, name in names.items():
        manifest = table(folder / "c.csv", [{"uri": "a.png"}, {"uri": "a.png", "id": "b", column: name}])
        with pytest.raises(ValueError, match=f"`{column}` in row 2 of .* lies outside .*set cohort.root") as error:
            surveyed(manifest)
        assert name not in str(error.value), tried
    allowed = table(folder / "c.csv", [{"uri": names["steps up"]}])
    assert surveyed(allowed, root=str(tmp_path))[0].reason is None
    within = table(folder / "c.csv", [{"uri": "b/../a.png"}])
    assert surveyed(within)[0].uris == (str(folder / "a.png"),)


@pytest.mark.parametrize(
    "name",
    ["s3://other/x.png", "s3://bucket/a-b/x.png", "s3://bucket/a/../b/x.png", "/etc/passwd", "x//y.png", "../x.png"],
)
def test_a_manifest_in_a_bucket_names_nothing_outside_its_prefix(name: str) -> None:
    lies_below = sources.fence(Location(url="s3://bucket/a"))
    assert lies_below("s3://bucket/a/x.png") and lies_below("s3://bucket/a/b/")
    assert not lies_below(rows._resolve(name, "s3://bucket/a"))


def test_a_listed_folder_does_not_follow_links_that_lead_out_of_it(tmp_path: Path) -> None:
    folder = tmp_path / "cohort"
    picture(folder / "a.png")
    outside(folder)
    assert [(found.id, found.reason and found.reason.partition(":")[0]) for found in surveyed(folder)] == [
        ("a.png", None),
        ("link.png", "it is a link that leads out of the cohort's folder"),
        ("linked", "it is a link to a folder and no file"),
    ]


def test_a_file_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    picture(tmp_path / "a.png")
    with (tmp_path / "b.npy").open("wb") as file:
        file.truncate(5 * 2**30)  # sparse
    read: list[str] = []
    original = Location.read
    monkeypatch.setattr(Location, "read", lambda self: read.append(self.url) or original(self))
    assert "has 5.0 GiB" in str(surveyed(tmp_path)[1].reason)
    assert read == [str(tmp_path / "a.png")]


def test_the_slices_of_a_series_are_bounded_together(tmp_path: Path) -> None:
    series(tmp_path, "s", 4)
    assert surveyed(tmp_path, 3, largest_image=4 * 4 * 5 * 4)[0].reason is None
    reason = surveyed(tmp_path, 3, largest_image=4 * 4 * 5 * 4 - 1)[0].reason
    assert "declares pixels of 320 bytes as float32, and cohort.largest_image is 319 bytes" in str(reason)
