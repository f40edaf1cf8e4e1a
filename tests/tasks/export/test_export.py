"""The course of an export: what is chosen, made once, never seen half-written, and refused."""

import errno
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner

from flows.cli import main
from flows.config import RunConfig
from models.errors import ConfigurationError
from tasks.cohort.pseudonyms import VARIABLE
from tasks.export import FORMATS, folders
from tasks.export.case import Case
from tasks.export.export import Exported, draw_up, export
from tasks.export.folders import RECORD, place_of
from tasks.export.format import CannotExport, Format
from tasks.storage.lease import Occupied, lease
from tasks.storage.location import Location
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.tasks.outputs import Cohort, carry_out, explained, planned, promised


class Counted(Format):
    """A format that writes two files, and keeps count of the cases."""

    name = "counted"

    def __init__(self) -> None:
        self.cases: list[str] = []
        self.fails = False
        self.dies = False

    def write(self, case: Case, folder: Path) -> None:
        if self.fails:
            raise CannotExport("counted holds no such case: leave it out")
        self.cases.append(case.id)
        (folder / "one.txt").write_text(case.id)
        if self.dies:
            raise KeyboardInterrupt
        (folder / "within").mkdir()
        (folder / "within/two.txt").write_text(str(len(case.maps)))


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counted:
    made = Counted()
    monkeypatch.setitem(FORMATS, "counted", made)
    return made


def files(output: Location) -> set[str]:
    return {name for name in (output / "exports").sizes()}


def test_a_case_that_is_there_whole_is_not_made_again(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    chosen, done = export(output, ["counted"])
    assert (done.written, done.kept, done.failed, chosen.left_out) == (10, 0, {}, {})
    assert files(output) == {f"counted/id-{n}/{f}" for n in range(10) for f in (RECORD, "one.txt", "within/two.txt")}
    _, done = export(output, ["counted"])
    assert (done.written, done.kept) == (0, 10) and len(counted.cases) == 10
    (output / "exports/counted/id-3/within/two.txt").remove()
    (output / "exports/counted/id-4" / RECORD).remove()
    _, done = export(output, ["counted"])
    assert (done.written, done.kept) == (2, 8) and counted.cases[10:] == ["id-3", "id-4"]
    assert verify(output) == []


def test_a_case_that_changed_or_is_asked_for_otherwise_is_made_again(
    cohort: Cohort, output: Location, counted: Counted
) -> None:
    carry_out(cohort.content(output))
    export(output, ["counted"])
    cohort.add([9], version=1)
    carry_out(cohort.content(output))
    _, done = export(output, ["counted"])
    assert "id-9" in counted.cases[10:] and done.kept >= 8  # of the other shards
    _, done = export(output, ["counted"], explainers=["saliency"])
    assert done.written == 10
    assert (output / "exports/counted/id-0/within/two.txt").read() == b"1"


def test_only_some_images_or_subjects(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    export(output, ["counted"], ids=["id-4", "patient-0"])
    assert counted.cases == ["id-0", "id-1", "id-4"]
    with pytest.raises(ConfigurationError, match=r"--id nobody: the output .* has no such image or subject"):
        export(output, ["counted"], ids=["id-4", "nobody"])


@pytest.mark.parametrize("to", ["local", "bucket"])
def test_half_written_cases_are_never_seen(
    cohort: Cohort, output: Location, counted: Counted, tmp_path: Path, to: str, request: pytest.FixtureRequest
) -> None:
    place = Location(url=str(tmp_path / "elsewhere")) if to == "local" else request.getfixturevalue("bucket")
    carry_out(cohort.content(output))
    export(output, ["counted"], place, ["id-1"])
    counted.dies = True
    with pytest.raises(KeyboardInterrupt):
        export(output, ["counted"], place, ["id-2"])
    with pytest.raises(KeyboardInterrupt):
        export(output, ["counted"], place, ["id-1"], explainers=["saliency"])
    assert {name.split("/")[1] for name in place.sizes()} == {"id-1"}  # the one that was whole is as it was
    assert (place / "counted/id-1/within/two.txt").read() == b"2"
    counted.dies = False
    _, done = export(output, ["counted"], place, ["id-2", "id-1"], explainers=["saliency"])
    assert done.written == 2 and (place / "counted/id-1/within/two.txt").read() == b"1"


def test_what_a_killed_export_leaves_is_swept(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    left = Path(output.url) / "exports/counted/.abc.partial/case"
    left.mkdir(parents=True)
    export(output, ["counted"], ids=["id-1"])
    assert not left.parent.exists() and (left.parent.parent / "id-1").is_dir()


@pytest.mark.parametrize("id", ["../../etc", "..", "a/b", "id#3", "sub 1", "%2E", "肺" * 90, "a/" * 150])
def test_an_id_makes_one_folder_whatever_it_holds(id: str, tmp_path: Path) -> None:
    to = Location(url=str(tmp_path))
    place = place_of(to, "nifti", id)
    assert place.url.startswith(f"{to.url}/nifti/")
    os.makedirs(place.path)
    assert place_of(to, "nifti", f"{id}!") != place
    assert [*tmp_path.iterdir()] == [tmp_path / "nifti"] and len([*(tmp_path / "nifti").rglob("*")]) == 1


def test_what_is_not_explained_is_left_out_and_counted(cohort: Cohort, output: Location, counted: Counted) -> None:
    (cohort.folder / "2.npy").write_bytes(b"no image")
    carry_out(cohort.content(output))
    withdraw(output, "patient-3")
    chosen, done = export(output, ["counted"])
    assert chosen.left_out == {"quarantined": 1, "withdrawn": 2}
    assert done.written == 7 and not {"id-2", "id-6", "id-7"} & {*counted.cases}


def test_of_a_run_that_is_still_going_on_what_is_delivered_is_exported(
    cohort: Cohort, output: Location, counted: Counted
) -> None:
    planned(cohort.content(output))
    explained(output, [1])
    chosen, _ = export(output, ["counted"])
    assert chosen.left_out == {"pending": 6} and counted.cases == ["id-4", "id-5", "id-6", "id-7"]


def test_exports_go_when_a_subject_is_withdrawn(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    export(output, ["counted"])
    withdraw(output, "patient-3")
    assert files(output) == set()


def test_exports_go_when_an_output_is_overwritten(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    export(output, ["counted"])
    carry_out(cohort.content(output), overwrite=True)
    assert files(output) == set()


def test_a_source_that_is_gone_or_changed_is_named_and_the_others_are_exported(
    cohort: Cohort, output: Location, counted: Counted, caplog: pytest.LogCaptureFixture
) -> None:
    carry_out(cohort.content(output))
    np.save(cohort.folder / "3.npy", np.zeros((16, 16), np.float32))
    (cohort.folder / "5.npy").unlink()
    with caplog.at_level(logging.WARNING, "cohortlens"):
        _, done = export(output, ["counted"])
    assert done.written == 8 and done.failed.keys() == {"id-3", "id-5"}
    assert "the file changed after the run was planned" in done.failed["id-3"]
    assert "a file of the image cannot be opened (FileNotFoundError)" in done.failed["id-5"]
    assert "image id-3 is not exported: the file changed" in caplog.text and str(cohort.folder) not in caplog.text


def test_an_image_that_the_cohort_no_longer_has_is_named(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    cohort.take_away([7])
    _, done = export(output, ["counted"], ids=["id-6", "id-7"])
    assert done.failed == {"id-7": "the image is not in the cohort any more"} and counted.cases == ["id-6"]


def test_without_the_key_an_error_names_the_image(
    cohort: Cohort, output: Location, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "0123456789abcdef")
    content = cohort.content(output)
    content["cohort"] = {**content["cohort"], "identifiers": "pseudonymous"}
    carry_out(content)
    _, entries = promised(output)
    _, done = export(output, ["counted"], ids=[entries[3].id])
    assert done.written == 1
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(ConfigurationError, match=rf"the files of {entries[0].id} and 9 others cannot be found: .* key"):
        export(output, ["counted"])
    with pytest.raises(ConfigurationError, match=rf"the files of {entries[3].id} cannot be found: .*set {VARIABLE}"):
        export(output, ["counted"], ids=[entries[3].id])


def test_a_case_that_a_format_cannot_hold_is_named(cohort: Cohort, output: Location, counted: Counted) -> None:
    carry_out(cohort.content(output))
    counted.fails = True
    _, done = export(output, ["counted", "nifti"], ids=["id-1"])
    assert done.failed == {"id-1": "counted holds no such case: leave it out"}
    assert {name.split("/")[0] for name in files(output)} == {"nifti"}  # which can hold it all the same


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (
            RuntimeError("what a library says of a patient"),
            "counted fails with RuntimeError: export it in another format",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), r"No space left on device: '.*/exports/counted/id-1'"),
    ],
    ids=["of a library", "full disk"],
)
def test_a_format_that_fails_stops_no_export_but_a_disk_does(
    cohort: Cohort,
    output: Location,
    counted: Counted,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    told: str,
) -> None:
    def fail(case: Case, folder: Path) -> None:
        raise error

    carry_out(cohort.content(output))
    monkeypatch.setattr(counted, "write", fail)
    if isinstance(error, OSError):
        with pytest.raises(OSError, match=told):
            export(output, ["counted"], ids=["id-1"])
    else:
        assert export(output, ["counted", "nifti"], ids=["id-1"])[1] == Exported(1, 0, {"id-1": told})


def test_files_that_name_patients_are_kept_out_of_the_output(
    cohort: Cohort, output: Location, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    monkeypatch.setattr(Counted, "identifies", True)
    with pytest.raises(ConfigurationError, match=r"counted: its files name the patient .* name another folder by --to"):
        export(output, ["counted"])
    with pytest.raises(ConfigurationError, match="name another folder by --to"):
        export(output, ["counted"], output / "report")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"formats": ["nift"]}, "--format nift: there is no such format; there are nifti, ome-zarr, png, pdf"),
        ({"formats": ["nifti"], "explainers": ["gradcam"]}, "gradcam: the output has maps by saliency, smoothgrad"),
        ({"formats": ["nifti"], "to": "report"}, "the output's own folder for exports is exports: leave --to out"),
    ],
)
def test_what_cannot_be_asked_for(cohort: Cohort, output: Location, arguments: dict[str, Any], message: str) -> None:
    carry_out(cohort.content(output))
    arguments |= {"to": output / arguments["to"]} if "to" in arguments else {}
    with pytest.raises(ConfigurationError, match=message):
        draw_up(output, **arguments)


def test_a_format_that_is_not_installed_says_which_extra_brings_it(
    cohort: Cohort, output: Location, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    monkeypatch.setattr(Counted, "package", "no_such_package")
    monkeypatch.setattr(Counted, "extra", "dicom")
    with pytest.raises(ConfigurationError, match="no_such_package is not installed: install the extra `dicom`"):
        draw_up(output, ["counted"])


def test_the_cohort_may_lie_elsewhere_on_this_machine(
    cohort: Cohort, output: Location, counted: Counted, tmp_path: Path
) -> None:
    content = cohort.content(output)
    carry_out(content)
    cohort.folder.rename(tmp_path / "moved")
    content["cohort"] = {**content["cohort"], "source": str(tmp_path / "moved/manifest.csv")}
    content["model"] = {**content["model"], "weights": str(tmp_path / "moved/weights.safetensors")}
    moved = RunConfig.model_validate(content).cohort
    _, done = export(output, ["counted"], ids=["id-1"], cohort=moved)
    assert done.written == 1
    other = moved.model_copy(update={"color": "grey"})
    with pytest.raises(ConfigurationError, match="reads or prepares images in another way than the output was made in"):
        export(output, ["counted"], ids=["id-1"], cohort=other)


def test_an_image_that_other_versions_would_prepare_otherwise_is_named(
    cohort: Cohort, output: Location, counted: Counted, monkeypatch: pytest.MonkeyPatch
) -> None:
    from tasks.export import cases

    carry_out(cohort.content(output))
    read = cases.read_original

    def elsewhere(*arguments: Any) -> Any:
        original = read(*arguments)
        object.__setattr__(original.prepared, "affine", np.eye(4))
        return original

    monkeypatch.setattr(cases, "read_original", elsewhere)
    _, done = export(output, ["counted"], ids=["id-1"])
    assert "takes the image elsewhere than when it was explained" in done.failed["id-1"]


def test_colours_have_the_same_ends_whichever_images_are_exported(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    scales = draw_up(output, ["png"]).scales
    assert [scale.explainer for scale in scales] == ["saliency", "smoothgrad"] and all(one.limit > 0 for one in scales)
    assert draw_up(output, ["png"], explainers=["smoothgrad"]).scales == scales[1:]


def test_the_command_line(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    (cohort.folder / "5.npy").unlink()
    result = CliRunner().invoke(main, ["export", output.url, "--format", "nifti", "--id", "id-4", "--id", "patient-2"])
    assert result.exit_code == 1, result.output
    assert "cases written 1, there already 0" in result.output and "id-5  a file of the image cannot" in result.output
    result = CliRunner().invoke(main, ["export", output.url, "--format", "nifti", "--id", "id-4"])
    assert result.exit_code == 0 and "cases written 0, there already 1" in result.output
    result = CliRunner().invoke(main, ["export", output.url, "--format", "nifty"])
    assert result.exit_code == 2 and "there is no such format" in result.output
    result = CliRunner().invoke(main, ["export", str(cohort.folder / "nothing"), "--format", "nifti"])
    assert result.exit_code == 2 and "there is no run at" in result.output


def test_a_configuration_stands_for_its_output(cohort: Cohort, output: Location, tmp_path: Path) -> None:
    content = cohort.content(output)
    carry_out(content)
    (tmp_path / "run.yaml").write_text(json.dumps(content))
    result = CliRunner().invoke(main, ["export", str(tmp_path / "run.yaml"), "--format", "nifti", "--id", "id-4"])
    assert result.exit_code == 0, result.output
    assert (Path(output.url) / "exports/nifti/id-4/export.json").is_file()


def test_an_export_holds_the_lease_of_the_output_and_of_a_folder_elsewhere(
    cohort: Cohort, output: Location, counted: Counted, tmp_path: Path
) -> None:
    elsewhere = Location(url=str(tmp_path / "elsewhere"))
    carry_out(cohort.content(output))
    for taken, to in ((output, None), (output, elsewhere), (elsewhere, elsewhere)):
        with lease(taken, "run"), pytest.raises(Occupied):
            export(output, ["counted"], to, ids=["id-1"])
    export(output, ["counted"], elsewhere, ids=["id-1"])
    assert elsewhere.names() == []  # leases are given back


@pytest.mark.parametrize(
    "error",
    [PermissionError(errno.EACCES, "denied"), OSError(errno.EROFS, "read-only")],
    ids=lambda error: error.args[1],
)
def test_an_output_that_is_read_only_can_be_exported_to_elsewhere(
    cohort: Cohort, output: Location, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: OSError
) -> None:
    carry_out(cohort.content(output))

    def leased(place: Location, who: str) -> Any:
        if place == output:
            raise error
        return lease(place, who)

    monkeypatch.setattr(folders, "lease", leased)
    _, done = export(output, ["counted"], Location(url=str(tmp_path / "elsewhere")), ids=["id-1"])
    assert done.written == 1
    with pytest.raises(OSError, match=error.args[1]):
        export(output, ["counted"], ids=["id-1"])


def test_a_link_into_the_output_is_within_it(
    cohort: Cohort, output: Location, counted: Counted, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    carry_out(cohort.content(output))
    monkeypatch.setattr(Counted, "identifies", True)
    (tmp_path / "link").symlink_to(output.path)
    with pytest.raises(ConfigurationError, match="name another folder by --to"):
        export(output, ["counted"], Location(url=str(tmp_path / "link/exports")))
