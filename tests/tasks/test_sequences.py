"""Several files make one image, as columns, cells and names tell; or it is set aside by the name of a sequence."""

import logging
import re
import shutil
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pydicom
import pytest

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import combine
from tasks.cohort.pseudonyms import Key
from tasks.cohort.reading import Unreadable
from tasks.cohort.selection import Selection
from tasks.cohort.sequences import in_order
from tasks.cohort.survey import Survey, survey, which
from tests.tasks.test_cohort import picture, series, sha256, table

FOUR = ("t1", "t1ce", "t2", "flair")


def surveyed(source: Path, spatial_dims: int = 2, only: Selection | None = None, **fields: Any) -> Survey:
    config = CohortConfig.model_validate({"source": str(source), "identifiers": "as given", **fields})
    return survey(config, spatial_dims, Key.make(), only=only or Selection())


def files_of(found: Survey, id: str) -> dict[str, list[str]]:
    """Names of the files of each sequence."""
    source = found.sources(id)
    assert source is not None
    return {part.name: [Path(uri).name for uri in part.uris] for part in source.parts}


def reasons(found: Survey) -> dict[str, str | None]:
    return {entry.id: entry.reason for entry in found.entries}


def tagged(paths: Sequence[Path], **tags: str) -> None:
    """Write DICOM files anew with other values of some tags."""
    for path in paths:
        dataset = pydicom.dcmread(path)
        for tag, value in tags.items():
            setattr(dataset, tag, value)
        dataset.save_as(path)


def pictures(folder: Path, *names: str) -> None:
    for name in names:
        picture(folder / name)


@pytest.mark.parametrize(
    ("rows", "fields"),
    [
        ([{"id": "a", "uri": "x.png|y.png"}], {"sequences": ["t1", "t2"]}),
        ([{"id": "a", "uri": " x.png | y.png "}], {"sequences": ["t1", "t2"]}),
        ([{"id": "a", "t1": "x.png", "t2": "y.png"}], {"columns": {"uri": ["t1", "t2"]}}),
        ([{"id": "a", "T2": "y.png", "T1": "x.png"}], {"columns": {"uri": ["t1", "t2"]}}),
        ([{"id": "a", "t1": "x.png", "t2": "y.png"}], {"columns": {"uri": ["t2", "t1"]}, "sequences": ["t1", "t2"]}),
        (
            [{"id": "a", "pre": "x.png", "post": "y.png"}],
            {"columns": {"uri": ["pre", "post"]}, "sequences": ["t1", "t2"]},
        ),
        ([{"id": "a", "files": "x.png|y.png"}], {"columns": {"uri": "files"}, "sequences": ["t1", "t2"]}),
    ],
    ids=["cell", "blanks", "columns", "order of the table", "order of the columns", "other names", "renamed cell"],
)
@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_a_row_names_the_files_of_an_image(tmp_path: Path, rows: Any, fields: dict[str, Any], suffix: str) -> None:
    pictures(tmp_path, "x.png", "y.png")
    found = surveyed(table(tmp_path / f"c{suffix}", rows), **fields)
    assert files_of(found, "a") == {"t1": ["x.png"], "t2": ["y.png"]}
    (entry,) = found.entries
    digests = [sha256(tmp_path / name) for name in ("x.png", "y.png")]
    assert [(source.name, source.kind, source.digest) for source in entry.sources] == [
        ("t1", "image", digests[0]),
        ("t2", "image", digests[1]),
    ]
    assert (entry.reason, entry.digest, entry.format) == (None, combine(digests), "png")


def test_columns_are_renamed_labels_are_mapped_and_the_rest_is_left_alone(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png", "m.png")
    rows = [
        {"scan": "1.png", "case": "a", "grade": 0, "seg": "m.png", "patient": "p", "site": "Doe", "label": "Doe"},
        {"scan": "2.png", "case": "b", "grade": 2, "seg": None, "patient": "q", "site": "Doe", "label": "Doe"},
    ]
    columns = {"uri": "scan", "id": "case", "label": "grade", "mask": "seg", "subject": "patient"}
    found = surveyed(table(tmp_path / "c.csv", rows), columns=columns, label_map={"0": "healthy", "1": "tumour"})
    assert [(entry.id, entry.label, entry.subject, bool(entry.mask)) for entry in found.entries] == [
        ("a", "healthy", "p", True),
        ("b", "2", "q", False),
    ]
    with pytest.raises(ConfigurationError, match="columns that are not known"):
        surveyed(tmp_path / "c.csv")


@pytest.mark.parametrize(
    ("label", "expected"),
    [("1", "tumour"), ("0|1", "healthy|tumour"), ("1|2", "tumour|2"), ("2", "2"), ("tumour", "tumour")],
)
def test_each_of_several_labels_is_mapped(tmp_path: Path, label: str, expected: str) -> None:
    pictures(tmp_path, "1.png")
    rows = [{"uri": "1.png", "label": label}]
    found = surveyed(table(tmp_path / "c.csv", rows), label_map={"0": "healthy", "1": "tumour"})
    assert found.entries[0].label == expected


def test_a_parquet_column_that_is_left_alone_may_hold_anything(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png")
    rows = [{"scan": "1.png", "boxes": [[1, 2], [3, 4]]}]
    assert len(surveyed(table(tmp_path / "c.parquet", rows), columns={"uri": "scan"}).entries) == 1


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"columns": {"uri": "scan"}}, r"has no column `scan` \(cohort.columns.uri\)"),
        ({"columns": {"label": "grade"}}, r"has no column `grade` \(cohort.columns.label\)"),
        ({"columns": {"uri": ["x", "X"]}}, "columns: x is named twice"),
        ({"columns": {"uri": "a", "mask": "a"}}, "columns: a is named twice"),
        ({"columns": {"uri": []}}, "at least 1 item"),
        ({"columns": {"uri": ["a", "b"]}, "sequences": ["t1", "a"]}, "are not the columns of files"),
        ({"columns": {"uri": ["a", "b"]}, "sequences": ["t1", "t2", "flair"]}, "are not the columns of files"),
        ({"sequences": ["t1", "T1"]}, "each is another name"),
        ({"sequences": ["t1|t2"]}, "each is another name"),
        ({"sequences": [""]}, "each is another name"),
        ({"align": "to first"}, "align is for images of several files"),
        ({"columns": {"uri": ["a", "b"]}, "frames": "images"}, "frames of several sequences are no images"),
        ({"section": "training"}, "section is for a datalist"),
        ({"label_map": {"0": ""}}, "at least 1 character"),
        ({}, r"the `uri` in row 1 of .* names several files: name the sequences that they are in cohort.sequences"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path: Path, fields: dict[str, Any], message: str) -> None:
    pictures(tmp_path, "1.png", "2.png")
    source = table(tmp_path / "c.csv", [{"uri": "1.png|2.png"}])
    with pytest.raises(ValueError, match=message):
        surveyed(source, **fields)


@pytest.mark.parametrize("field", [{"columns": {"uri": "a"}}, {"label_map": {"0": "a"}}, {"section": "training"}])
def test_what_is_of_a_table_is_refused_of_a_folder(tmp_path: Path, field: dict[str, Any]) -> None:
    picture(tmp_path / "1.png")
    with pytest.raises(ValueError, match=f"{next(iter(field))} is for what a table says"):
        surveyed(tmp_path, **field)


@pytest.mark.parametrize(
    ("sequences", "files", "expected"),
    [
        (FOUR, ["x_t1.nii", "x_t1ce.nii", "x_t2.nii", "x_flair.nii"], [0, 1, 2, 3]),
        (FOUR, ["x_FLAIR.nii.gz", "x_T1ce.nii.gz", "x_T1.nii.gz", "x_T2.nii.gz"], [2, 1, 3, 0]),
        (("T1w", "FLAIR"), ["s/sub-1_FLAIR.nii.gz", "s/sub-1_T1w.nii.gz"], [1, 0]),
        (("t1n", "t1c"), ["BraTS-GLI-1-000-t1c.nii.gz", "BraTS-GLI-1-000-t1n.nii.gz"], [1, 0]),
        (("0000", "0001"), ["case_0001_0001.nii.gz", "case_0001_0000.nii.gz"], [1, 0]),
        (("t1", "t1_ce"), ["a t1_ce axial.nii", "a t1 axial.nii"], [1, 0]),
        (("t1", "t2"), ["a/t2/", "a/t1/"], [1, 0]),
        (("t1", "t2"), ["one.nii", "two.nii"], [0, 1]),
        (("t1", "flair"), ["BEY\u0130N_FLA\u0130R.nii", "BEY\u0130N_T1.nii"], [1, 0]),
        (("t1", "flair"), ["t1_to_flair.nii", "flair.nii"], [0, 1]),
        (("t1", "t2"), ["xt1.nii", "t10.nii"], [0, 1]),
        (("t1", "t2"), ["a.nii", None], [0]),
        (("t1", "t2", "flair"), ["x_flair.nii", "x_t1.nii"], [1, None, 0]),
        (
            ("t1", "t2", "flair"),
            ["x_t2.nii", "x_t1.nii", "y.nii"],
            "the file that is given for t1 is named as t2: mend",
        ),
        (("t1", "flair"), ["flair.nii", "t1_to_flair.nii"], "the file that is given for t1 is named as flair"),
        (("t1", "t2"), ["a.nii"], r"it has 1 file, cohort.sequences has 2 \(t1, t2\), and names do not tell"),
        (("t1", "t2"), ["x_t1.nii", "x_t2.nii", "x_t2.nii"], "it has 3 files, cohort.sequences has 2"),
    ],
)
def test_names_tell_which_file_is_of_which_sequence(
    sequences: Sequence[str], files: Sequence[str | None], expected: Sequence[int | None] | str
) -> None:
    if isinstance(expected, str):
        with pytest.raises(Unreadable, match=expected):
            in_order(files, sequences)
    else:
        places = zip(sequences, expected, strict=False)
        assert in_order(files, sequences) == {name: files[place] for name, place in places if place is not None}


def test_a_cell_of_bars_alone_names_no_file(tmp_path: Path) -> None:
    source = table(tmp_path / "c.csv", [{"uri": " | "}])
    with pytest.raises(ConfigurationError, match=r"the `uri` in row 1 of .* holds '\|' and no file"):
        surveyed(source, sequences=["t1", "t2"])


@pytest.mark.parametrize("apart", ["NFC", "NFD"])
def test_accents_of_columns_labels_and_words_may_be_written_apart(tmp_path: Path, apart: Any) -> None:
    pictures(tmp_path, "1.png")
    there = unicodedata.normalize(apart, "fichier,qualité,âge\n1.png,lésé,né\n")
    (tmp_path / "c.csv").write_text(there, "utf-8")
    for form in ("NFC", "NFD"):
        column, label, age, word = (unicodedata.normalize(form, text) for text in ("qualité", " lésé", "âge", "né "))
        columns = {"uri": "fichier", "label": column}
        record = [{"name": age, "values": {word: 3}}]
        found = surveyed(tmp_path / "c.csv", columns=columns, label_map={label: "lesion"}, record=record)
        source = found.sources("1.png")
        assert source is not None and (found.entries[0].label, source.record) == ("lesion", (3.0,))


@pytest.mark.parametrize("row", [{"uri": "1_t1.png|1_t2.png"}, {"t1": "1_t1.png", "t2": "1_t2.png"}])
def test_a_record_goes_beside_the_files_of_an_image(tmp_path: Path, row: dict[str, str]) -> None:
    pictures(tmp_path, "1_t1.png", "1_t2.png", "m.png")
    source = table(tmp_path / "c.csv", [row | {"id": "a", "age": 5, "mask": "m.png"}])
    columns = {"uri": [name for name in row if name != "uri"] or "uri"}
    found = surveyed(source, columns=columns, sequences=["t1", "t2"], record=["age"])
    source_of = found.sources("a")
    assert source_of is not None and source_of.record == (5.0,)
    assert [part.kind for part in found.entries[0].sources] == ["image", "image", "record", "mask"]


def test_images_that_were_put_in_order_are_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pictures(tmp_path, "Doe_t1.png", "Doe_t2.png")
    rows = [{"id": "a", "uri": "Doe_t2.png|Doe_t1.png"}, {"id": "b", "uri": "Doe_t1.png|Doe_t2.png"}]
    with caplog.at_level(logging.WARNING):
        found = surveyed(table(tmp_path / "c.csv", rows), sequences=["t1", "t2"])
    assert files_of(found, "a") == files_of(found, "b") == {"t1": ["Doe_t1.png"], "t2": ["Doe_t2.png"]}
    assert found.entries[0].digest == found.entries[1].digest
    assert "1 images have their files in another order" in caplog.text and "Doe" not in caplog.text


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"t1": "Doe_t2.png", "t2": "Doe_t2.png"}, "the file that is given for t1 is named as t2"),
        (
            {"t1": "Doe_t1.png", "t2": None},
            "it lacks t2 of its sequences t1 and t2: add the file, or",
        ),
        ({"t1": "Doe_t1.png", "t2": "gone.png"}, "its t2: the file cannot be opened .FileNotFoundError."),
        ({"t1": "Doe_t1.png", "t2": "notes.txt"}, "its t2: not a known image format"),
        ({"t1": "Doe_t1.png", "t2": "empty/"}, "its t2: the folder is empty, or not there: check the table"),
        ({"t1": "plain.png", "t2": "plain.png"}, "its t1 and its t2 are one file: name the file of each"),
        ({"t1": "sub-01_t1.png", "t2": "sub-02_t2.png"}, r"its files are of 2 subjects, by their names \(BIDS\)"),
    ],
)
def test_an_image_is_set_aside_by_the_name_of_a_sequence(tmp_path: Path, row: dict[str, str], reason: str) -> None:
    pictures(tmp_path, "Doe_t1.png", "Doe_t2.png", "sub-01_t1.png", "sub-02_t2.png", "plain.png")
    (tmp_path / "notes.txt").write_text("Doe")
    whole = {"id": "whole", "t1": "Doe_t1.png", "t2": "Doe_t2.png"}
    found = reasons(surveyed(table(tmp_path / "c.csv", [{"id": "a", **row}, whole]), columns={"uri": ["t1", "t2"]}))
    assert found["whole"] is None
    assert re.match(reason, str(found["a"])) and "Doe" not in str(found["a"])


BRATS = {"BraTS_001": "BraTS_001_{}.png", "x-1/BraTS-GLI-2-000": "x-1/BraTS-GLI-2-000-{}.png", "003": "003/{}.png"}
BIDS = {f"{sub}/ses-1/anat/{sub}_ses-1": f"{sub}/ses-1/anat/{sub}_ses-1_{{}}.nii.gz" for sub in ("sub-01", "sub-02")}


@pytest.mark.parametrize(
    ("layout", "sequences", "beside"),
    [
        (BRATS, ["t1", "t2"], ["BraTS_001_seg.png", "003/other_t1ce.png"]),
        (BIDS, ["T1w", "FLAIR"], ["dataset_description.json", "sub-01/ses-1/anat/sub-01_ses-1_PDw.nii.gz"]),
        ({"case_0000": "case_0000_{}.png"}, ["0000", "0001"], []),
    ],
    ids=["brats", "bids", "nnunet"],
)
def test_files_of_a_folder_that_are_named_alike_make_one_image(
    tmp_path: Path, layout: dict[str, str], sequences: list[str], beside: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = picture(tmp_path.parent / "made.png")
    files = [pattern.format(sequence) for pattern in layout.values() for sequence in sequences]
    for name in [*files, *beside]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(made, tmp_path / name)
    for file in files if layout is BIDS else []:
        (tmp_path / file.replace(".nii.gz", ".json")).write_text("{}")
    found = surveyed(tmp_path, 3, sequences=sequences)
    assert reasons(found) == dict.fromkeys(sorted(layout))
    for id, pattern in layout.items():
        assert files_of(found, id) == {name: [Path(pattern.format(name)).name] for name in sequences}
    if beside:
        assert f"{len(beside)} files are left out, whose names end in none of the sequences" in caplog.text
    if layout is BIDS:
        assert [entry.subject for entry in found.entries] == ["sub-01", "sub-02"]


def test_what_a_folder_lacks_or_has_twice_is_told_by_the_sequence(tmp_path: Path) -> None:
    pictures(tmp_path, "a_t1.png", "a_t2.png", "b_t2.png", "c_t1.png", "c_t2.png", "c_T2.png")
    found = reasons(surveyed(tmp_path, sequences=["t1", "t2"]))
    assert found["a"] is None
    assert str(found["b"]).startswith("it lacks t1 of its sequences t1 and t2")
    assert str(found["c"]).startswith("its t2: the folder holds 2 images")
    with pytest.raises(ConfigurationError, match="none of 6 files has a name that ends in PDw or FLAIR, as case_t1"):
        surveyed(tmp_path, sequences=["PDw", "FLAIR"])


def test_a_sequence_may_be_a_series(tmp_path: Path) -> None:
    slices = {name: series(tmp_path / name, name) for name in ("t1", "t2")}
    tagged([*slices["t1"], *slices["t2"]], PatientID="Doe")
    found = surveyed(table(tmp_path / "c.csv", [{"id": "a", "uri": "t2/|t1/"}]), 3, sequences=["t1", "t2"])
    assert files_of(found, "a") == {name: [path.name for path in paths] for name, paths in slices.items()}
    (entry,) = found.entries
    assert entry.digest == combine([combine([sha256(path) for path in slices[name]]) for name in ("t1", "t2")])
    tagged(series(tmp_path / "t2", "another"), PatientID="Doe")
    found = surveyed(tmp_path / "c.csv", 3, sequences=["t1", "t2"])
    assert str(found.entries[0].reason).startswith("its t2: the folder holds 2 series")


def test_files_of_two_patients_make_no_image(tmp_path: Path) -> None:
    for name in ("t1", "t2"):
        tagged(series(tmp_path / name, name, 1), PatientID=f"Doe-{name}")
    found = surveyed(table(tmp_path / "c.csv", [{"id": "a", "uri": "t1/|t2/"}]), sequences=["t1", "t2"])
    assert "its 2 files are of 2 patients" in str(found.entries[0].reason)


def test_the_bound_is_of_all_files_together(tmp_path: Path) -> None:
    pictures(tmp_path, "1.png", "2.png")
    source = table(tmp_path / "c.csv", [{"uri": "1.png|2.png"}])
    bound = 2 * 4 * 5 * 4
    assert surveyed(source, sequences=["a", "b"], largest_image=bound).entries[0].reason is None
    assert f"pixels of {bound} bytes" in str(
        surveyed(source, sequences=["a", "b"], largest_image=bound - 1).entries[0].reason
    )


def test_an_image_is_selected_by_any_of_its_files(tmp_path: Path) -> None:
    for name, modality in (("ct", "CT"), ("pet", "PT")):
        tagged(series(tmp_path / name, name, 1), Modality=modality, PatientID="Doe")
    source = table(tmp_path / "c.csv", [{"id": "a", "uri": "ct/|pet/"}])
    for modality, count in (("CT", 1), ("PT", 1), ("MR", 0)):
        found = surveyed(source, only=Selection(modality=(modality,)), sequences=["ct", "pet"])
        assert len(found.entries) == count


def test_every_file_of_an_image_is_found_by_its_pseudonym(tmp_path: Path) -> None:
    pictures(tmp_path, "x_t1.png", "x_t2.png")
    key = Key.make()
    config = CohortConfig.model_validate({"source": str(tmp_path), "sequences": ["t1", "t2"]})
    (entry,) = survey(config, 2, key).entries
    assert entry.id == key.pseudonym("x")
    assert which(config, key, [entry.id]) == {entry.id: (str(tmp_path / "x_t1.png"), str(tmp_path / "x_t2.png"))}


def test_channels_are_named_by_the_sequences_if_each_is_one(tmp_path: Path) -> None:
    config = CohortConfig.model_validate({"source": str(tmp_path), "sequences": ["t1", "t2"]})
    assert [config.channel_names(count) for count in (1, 2, 3)] == [("0",), ("t1", "t2"), ("0", "1", "2")]
