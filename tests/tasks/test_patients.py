"""Whose image it is: by the cohort table, by DICOM's PatientID, or by BIDS; and what hangs on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.cohort.config import CohortConfig
from tasks.cohort.pseudonyms import VARIABLE, Key
from tasks.cohort.selection import Selection
from tasks.cohort.survey import Survey, survey, which
from tasks.plan import manifest
from tasks.storage.location import Location
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.integration.markers import encode, pictures, planted
from tests.tasks.outputs import Cohort, carry_out, promised
from tests.tasks.test_cohort import picture

KEY = Key.make()
PATIENTS = ("P-4711", "P-4711", "P-0815", "", "P-0815 ")


def scans(folder: Path, patients: tuple[str, ...] = PATIENTS, **elements: Any) -> Path:
    """One DICOM picture of each, of no series in common; an empty name is left out of the file."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (patient, pixels) in enumerate(zip(patients, pictures(len(patients)), strict=True)):
        made = planted(pixels, number, **{"PatientID": patient, "IssuerOfPatientID": "", **elements})
        if not patient:
            del made.PatientID
        (folder / f"{number}.dcm").write_bytes(encode(made))
    return folder


def surveyed(source: Path | str, spatial_dims: int = 2, key: Key = KEY, **how: Any) -> Survey:
    only = how.pop("only", Selection())
    config = CohortConfig.model_validate({"source": str(source), **how})
    return survey(config, spatial_dims, key, only=only)


@pytest.mark.parametrize("identifiers", ["pseudonymous", "as given"])
def test_a_patient_is_the_keyed_pseudonym_of_the_patient_id(tmp_path: Path, identifiers: str) -> None:
    found = surveyed(f"{scans(tmp_path / 'a')}/", identifiers=identifiers)
    one, other = KEY.pseudonym("P-4711"), KEY.pseudonym("P-0815")
    assert [entry.subject for entry in found.entries] == [one, one, other, None, other]
    assert "P-4711" not in repr(found.entries) and "P-0815" not in repr(found.entries)


def test_equal_patient_ids_of_two_issuers_are_two_people(tmp_path: Path) -> None:
    for issuer in ("North", "South"):
        scans(tmp_path / issuer, ("1", "1"), IssuerOfPatientID=issuer)
    found = [entry.subject for entry in surveyed(f"{tmp_path}/").entries]
    assert found[0] == found[1] and found[2] == found[3] and found[0] != found[2]
    assert all(entry.names >= {KEY.pseudonym("1")} for entry in surveyed(f"{tmp_path}/").entries)


@pytest.mark.parametrize(
    ("path", "subject"),
    [
        ("sub-01/anat/sub-01_T1w.png", "sub-01"),
        ("sub-01/a.png", "sub-01"),
        ("derivatives/x/sub-control02/ses-1/a.png", "sub-control02"),
        ("sub-03_bold.png", "sub-03"),
        ("sub-04.png", "sub-04"),
        ("sub-01/sub-02_T1w.png", "sub-02"),
        ("subject-1/a.png", None),
        ("sub/01.png", None),
        ("not-sub-01/a.png", None),
    ],
)
@pytest.mark.parametrize("by_table", [False, True])
def test_bids_names_the_subject_in_the_path(tmp_path: Path, path: str, subject: str | None, by_table: bool) -> None:
    picture(tmp_path / path)
    (tmp_path / "cohort.csv").write_text(f"id,uri\n1,{path}\n")
    source = tmp_path / ("cohort.csv" if by_table else "**/*.png")
    assert [entry.subject for entry in surveyed(source, identifiers="as given").entries] == [subject]
    (keyed,) = surveyed(source).entries
    assert keyed.subject == (subject and KEY.pseudonym(subject))


def test_the_table_comes_first_then_the_patient_id_then_bids(tmp_path: Path) -> None:
    scans(tmp_path / "sub-9", ("P-4711", "P-4711", ""))
    rows = ("sub-9/0.dcm,Doe", "sub-9/1.dcm,", "sub-9/2.dcm,")
    (tmp_path / "c.csv").write_text("\n".join(["uri,subject", *rows]))
    found = [entry.subject for entry in surveyed(tmp_path / "c.csv").entries]
    assert found == [KEY.pseudonym(name) for name in ("Doe", "P-4711", "sub-9")]


def test_a_volume_of_two_patients_is_set_aside(tmp_path: Path) -> None:
    def volume(folder: str, patients: tuple[str, ...]) -> None:
        (tmp_path / folder).mkdir()
        for z, (patient, pixels) in enumerate(zip(patients, pictures(3), strict=True)):
            made = planted(pixels, 7, PatientID=patient, ImagePositionPatient=[0, 0, z])
            (tmp_path / folder / f"{z}.dcm").write_bytes(encode(made))

    volume("mixed", ("1", "1", "2"))
    volume("whole", ("3", "3", "3"))
    mixed, whole = surveyed(f"{tmp_path}/", 3).entries
    assert mixed.reason and "are of 2 patients, by PatientID (0010,0020)" in mixed.reason and mixed.digest is None
    assert whole.reason is None and whole.subject


def test_patients_select_although_only_their_files_name_them(tmp_path: Path) -> None:
    source = f"{scans(tmp_path / 'a')}/"
    found = surveyed(source, only=Selection(ids=(f" {KEY.pseudonym('P-0815')}\n",)), identifiers="as given")
    assert [entry.id for entry in found.entries] == ["2.dcm", "4.dcm"] and len(found.unselected) == 3
    by_name = surveyed(source, only=Selection(ids=("1.dcm",)), identifiers="as given")
    assert [entry.id for entry in by_name.entries] == ["1.dcm"]
    assert surveyed(source, only=Selection(ids=("",))).entries == []


@pytest.fixture
def content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.delenv(VARIABLE, raising=False)
    source = f"{scans(tmp_path / 'scans')}/"
    output = Location(url=str(tmp_path / "out"))
    model = Cohort(tmp_path / "model", range(1)).content(output)
    return model | {"cohort": {"source": source}, "explainers": ["saliency"]}


def location(content: dict[str, Any]) -> Location:
    return Location.model_validate(content["output"])


@pytest.mark.parametrize("identifiers", ["pseudonymous", "as given"])
@pytest.mark.parametrize("keyed", [False, True])
def test_a_patient_is_withdrawn_as_the_hospital_names_it_and_stays_away(
    content: dict[str, Any], identifiers: str, keyed: bool
) -> None:
    content["cohort"]["identifiers"] = identifiers
    output = location(content)
    assert carry_out(content, report=True).explained == 5
    key = promised(output)[0].key
    assert withdraw(output, key.pseudonym("P-0815") if keyed else " P-0815").images == (2, 4)
    assert verify(output) == []
    assert carry_out(content).withdrawn == 2
    assert carry_out(content, overwrite=True).images == 3
    everything = b"".join((output / name).read() for name in output.sizes()) + repr(manifest.read(output)).encode()
    assert b"P-0815" not in everything and b"P-4711" not in everything


def test_a_patient_is_withdrawn_where_some_images_have_it_from_the_table(content: dict[str, Any]) -> None:
    table = Path(content["cohort"]["source"]) / "c.csv"
    table.write_text("uri,subject\n0.dcm,\n1.dcm,study-1\n2.dcm,P-4711\n4.dcm,study-2\n")
    content["cohort"] = {"source": str(table), "identifiers": "as given"}
    carry_out(content)
    assert withdraw(location(content), "P-4711").images == (0, 1, 2)
    assert carry_out(content, overwrite=True).images == 1


def test_the_files_of_a_patient_are_found_by_the_output(content: dict[str, Any]) -> None:
    carry_out(content)
    plan, entries = promised(location(content))
    subject = plan.key.pseudonym("P-4711")
    folder = content["cohort"]["source"]
    assert which(plan.cohort, plan.key, [subject], entries) == {subject: (f"{folder}0.dcm", f"{folder}1.dcm")}
    assert which(plan.cohort, plan.key, [entries[3].id]) == {entries[3].id: (f"{folder}3.dcm",)}


def test_a_file_that_is_as_it_was_is_not_read_for_its_patient(content: dict[str, Any]) -> None:
    carry_out(content)
    entries = promised(location(content))[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Location, "read", lambda self: np.nan)
        key = promised(location(content))[0].key
        config = CohortConfig.model_validate(content["cohort"])
        known = {fact.file: fact for entry in entries for fact in entry.facts}
        assert survey(config, 2, key, known=known).entries == entries
