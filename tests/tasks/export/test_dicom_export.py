"""Outputs of DICOM cohorts, exported as DICOM: series of slices, slices that are pictures, and what cannot be had."""

from pathlib import Path
from typing import Any

import highdicom as hd
import numpy as np
import pytest
from click.testing import CliRunner, Result
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.uid import ComprehensiveSRStorage, ParametricMapStorage, SegmentationStorage

from flows.cli import main
from models.errors import ConfigurationError
from tasks.cohort.readers import read
from tasks.export.export import export
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.template import open_store
from tests.tasks.export.dicom_cases import STUDY, errors, identified
from tests.tasks.export.test_dicom_pacs import Peer
from tests.tasks.outputs import Cohort, carry_out, squares_model
from tests.tasks.readers.test_dicom_series import AXES, oblique, slices

FORMATS = ("dicom-map", "dicom-seg", "dicom-sr")
AXIS = {"p1": oblique(1), "p2": AXES[5]}


def fill(folder: Path) -> Path:
    """Write two series, each in a folder of its own, with slices in an order that says nothing."""
    for number, (name, orientation) in enumerate(AXIS.items(), 1):
        (folder / name).mkdir(parents=True)
        for place, part in enumerate(slices(orientation)):
            of = {"SeriesInstanceUID": f"{STUDY}.{number}", "PatientID": name, "InstanceNumber": place + 1}
            (folder / name / f"{(7 * place) % 5}.dcm").write_bytes(identified(part, **of))
    return folder


def content(folder: Path, space: list[int], **cohort: Any) -> dict[str, Any]:
    network = {"_target_": "monai.networks.nets.Classifier", "in_shape": [1, *space], "classes": 2}
    (folder / "model").mkdir()
    model = squares_model(folder / "model", ("none", "lesion"), network | {"channels": [2], "strides": [1]})
    return {
        "cohort": {"source": str(fill(folder / "images")), "identifiers": "as given", **cohort},
        "model": model | {"input_shape": space},
        "explainers": ["saliency", "input_x_gradient"],
        "metrics": ["gini", "deletion"],
        "output": str(folder / "output"),
    }


@pytest.fixture(scope="module")
def volumes(tmp_path_factory: pytest.TempPathFactory) -> Location:
    folder = tmp_path_factory.mktemp("volumes")
    carry_out(given := content(folder, [5, 4, 6]))
    return Location(url=given["output"])


def exported(output: Location, to: Path, formats: tuple[str, ...] = FORMATS, **how: Any) -> dict[str, Dataset]:
    _, done = export(output, formats, Location(url=str(to)), **how)
    assert not done.failed
    return {path.relative_to(to).as_posix(): dcmread(path) for path in sorted(to.glob("*/*/*.dcm"))}


def expected(output: Location, id: str, explainer: str) -> NDArray[np.float32]:
    """The map as it is stored, on the network's grid, which here is the source's."""
    store = open_store(output)
    row = [entry.id for entry in manifest.read(output)].index(id)
    found: NDArray[np.float32] = store["attribution"].isel(image_id=row, target=0).sel(explainer=explainer).values
    return found


@pytest.mark.parametrize("name", AXIS)
def test_maps_of_volumes_lie_where_the_images_do(volumes: Location, tmp_path: Path, name: str) -> None:
    exported(volumes, tmp_path, ("dicom-map",))
    source = read([path.read_bytes() for path in sorted(images_of(volumes, name))], 3)
    (path,) = (tmp_path / "dicom-map").glob(f"{name}*/*inputXGradient*")
    back = read([path.read_bytes()], 3)
    assert source.affine is not None and back.affine is not None
    np.testing.assert_allclose(back.affine, source.affine, atol=1e-6)
    np.testing.assert_array_equal(back.pixels[0], expected(volumes, id_of(volumes, name), "input_x_gradient"))


def images_of(output: Location, name: str) -> list[Path]:
    return [*(Path(Plan.read(output).cohort.source.url) / name).iterdir()]


def id_of(output: Location, name: str) -> str:
    (found,) = [entry.id for entry in manifest.read(output) if entry.id.startswith(name)]
    return found


def test_every_object_keeps_the_standard_and_names_the_patient(volumes: Location, tmp_path: Path) -> None:
    found = exported(volumes, tmp_path, threshold="10%")
    assert len(found) == 2 * (2 + 2 + 1)
    for path, made in found.items():
        assert errors((tmp_path / path).read_bytes(), tmp_path) == []
        assert made.PatientID == path.split("/")[1][:2] and str(made.PatientName) == "Müller^Jürgen"
    assert len({made.SOPInstanceUID for made in found.values()}) == len(found)


def test_segmentations_mark_the_strongest_places(volumes: Location, tmp_path: Path) -> None:
    found = exported(volumes, tmp_path, ("dicom-seg",), threshold="10%")
    (made,) = [made for path, made in found.items() if "p1" in path and "saliency" in path]
    values = expected(volumes, id_of(volumes, "p1"), "saliency")
    assert made.pixel_array.sum() == (values >= np.sort(values, axis=None)[-12]).sum()
    assert made.SegmentSequence[0].SegmentLabel.endswith(", strongest 10 %")
    again = exported(volumes, tmp_path, ("dicom-seg",), threshold="0.5")
    assert {made.SOPInstanceUID for made in again.values()}.isdisjoint(made.SOPInstanceUID for made in found.values())


def test_a_report_has_the_scores_of_the_store(volumes: Location, tmp_path: Path) -> None:
    found = exported(volumes, tmp_path, ("dicom-sr",))
    store, id = open_store(volumes), id_of(volumes, "p2")
    row = [entry.id for entry in manifest.read(volumes)].index(id)
    (report,) = [hd.sr.srread(tmp_path / path) for path in found if path.startswith("dicom-sr/p2")]
    groups = report.content.get_image_measurement_groups()
    scores = {
        (group.tracking_identifier, one.name.meaning): one.value for group in groups for one in group.get_measurements()
    }
    image = store.isel(image_id=row)
    explained = str(store["class"].values[int(image["target_class"].values[0])])
    for explainer in ("saliency", "input_x_gradient"):
        for name in ("gini", "deletion"):
            value = image[f"metric_{name}"].isel(target=0).sel(explainer=explainer).item()
            assert scores[f"{explainer} for {explained}", name] == pytest.approx(value, rel=1e-6)
    for one in ("none", "lesion"):
        assert scores[one, "Probability"] == pytest.approx(image["probability"].sel({"class": one}).item(), abs=1e-6)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Location:
    folder = tmp_path_factory.mktemp("pictures")
    carry_out(given := content(folder, [4, 6]))
    return Location(url=given["output"])


def test_slices_that_are_pictures_have_maps_in_one_series(pictures: Location, tmp_path: Path) -> None:
    found = exported(pictures, tmp_path, ("dicom-map",), explainers=["saliency"])
    by_series: dict[tuple[str, str], set[int]] = {}
    for made in found.values():
        assert made.NumberOfFrames == 1
        key = (made.ReferencedSeriesSequence[0].SeriesInstanceUID, made.SeriesDescription)
        by_series.setdefault(key, set()).add(int(made.InstanceNumber))
    assert len(found) == 10 and len({made.SeriesInstanceUID for made in found.values()}) == len(by_series)
    for source in ("1", "2"):
        numbers = [number for (of, _), numbers in by_series.items() if of == f"{STUDY}.{source}" for number in numbers]
        assert sorted(numbers) == [1, 2, 3, 4, 5]


def test_files_that_name_patients_stay_out_of_the_output(volumes: Location) -> None:
    with pytest.raises(ConfigurationError, match=r"its files name the patient .* name another folder by --to"):
        export(volumes, FORMATS)


def test_a_source_that_is_not_dicom_is_refused_by_its_pseudonym(
    cohort: Cohort, output: Location, tmp_path: Path
) -> None:
    carry_out(cohort.content(output))
    _, done = export(output, FORMATS, Location(url=str(tmp_path / "to")), ["id-1"])
    assert done.failed == {
        "id-1": "its source is not DICOM, and DICOM objects refer to DICOM alone: export it as nifti"
    }


def test_a_source_that_changed_is_refused_by_its_pseudonym(tmp_path: Path) -> None:
    carry_out(given := content(tmp_path, [5, 4, 6]))
    output = Location(url=given["output"])
    changed = tmp_path / "images/p1/0.dcm"
    made = dcmread(changed)
    made.PixelData = bytes(len(made.PixelData))
    made.save_as(changed)
    _, done = export(output, FORMATS, Location(url=str(tmp_path / "to")))
    assert done.failed.keys() == {id_of(output, "p1")} and "changed" in done.failed[id_of(output, "p1")]
    assert {path.parent.name for path in (tmp_path / "to").glob("*/*/*.dcm")} == {"p2%2F0.dcm"}


def told(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["export", *arguments])


def test_what_is_exported_can_be_sent(volumes: Location, tmp_path: Path) -> None:
    peer = Peer([], [ParametricMapStorage, SegmentationStorage, ComprehensiveSRStorage])
    formats = [part for name in FORMATS for part in ("--format", name)]
    to = ["--to", str(tmp_path), "--send", f"dicom://PEER@127.0.0.1:{peer.port}"]
    try:
        for line in ("cases written 3, there already 0", "cases written 0, there already 3"):
            done = told(volumes.url, *formats, "--id", id_of(volumes, "p1"), *to)
            assert done.exit_code == 0 and line in done.output
            assert f"objects sent  5, to PEER@127.0.0.1:{peer.port}" in done.output
    finally:
        peer.server.shutdown()
    assert set(peer.uids) == {str(dcmread(path).SOPInstanceUID) for path in tmp_path.glob("*/*/*.dcm")}
    assert len(peer.uids) == 10


def test_what_the_pacs_refuses_is_told_by_image_and_file(volumes: Location, tmp_path: Path) -> None:
    peer = Peer([0xA900], [ParametricMapStorage])
    id = id_of(volumes, "p1")
    arguments = [volumes.url, "--format", "dicom-map", "--id", id, "--to", str(tmp_path), "--send"]
    try:
        done = told(*arguments, f"dicom://PEER@127.0.0.1:{peer.port}")
    finally:
        peer.server.shutdown()
    assert done.exit_code == 1 and "objects sent  1" in done.output
    assert f"{id}  p1-0-dcm_inputXGradientFor" in done.output and "is refused by the PACS: status 0xA900" in done.output
    gone = told(*arguments, f"dicom://PEER@127.0.0.1:{peer.port}")
    assert gone.exit_code == 3 and "does not answer" in gone.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format", "nifti", "--send", "dicom://PACS@host:104"], "a PACS takes DICOM alone: name a --format among"),
        (["--format", "dicom-map", "--send", "https://me:secret@host/x"], "--send: the address holds credentials"),
        (["--format", "dicom-seg", "--threshold", "many"], "--threshold 'many' is neither a share"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_done(
    volumes: Location, tmp_path: Path, arguments: list[str], message: str
) -> None:
    done = told(volumes.url, *arguments, "--to", str(tmp_path / "to"), "--id", id_of(volumes, "p1"))
    assert done.exit_code == 2 and message in " ".join(done.output.split()) and "secret" not in done.output
    assert not (tmp_path / "to").exists()
