"""Regions that raters drew, on the grids of sources: places as NumPy and nibabel have them, and which of them go."""

import json
from pathlib import Path
from typing import Any

import highdicom as hd
import nibabel
import numpy as np
import zarr
from nibabel.processing import resample_from_to
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image
from PIL import Image as Picture
from pydicom import dcmread

from tasks.export.export import Exported, export
from tasks.plan import manifest
from tasks.ratings.inbox import take
from tasks.ratings.rating import Region
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.withdraw import withdraw
from tests.tasks.export.dicom_cases import errors
from tests.tasks.export.made import OBLIQUE, RNG, run_on, transform, without_shear, write_volume
from tests.tasks.export.test_dicom_export import content, id_of
from tests.tasks.outputs import Cohort, carry_out
from tests.tasks.readings import rating_of

SECRET = "Ms Miller's left lung"


def rate(output: Location, id: str, mask: NDArray[np.bool_], rater: str = "reader-a", **changes: Any) -> dict[str, Any]:
    """Rate an image as the page does, with a region and a comment."""
    row = [entry.id for entry in manifest.read(output)].index(id)
    given = {"region": Region.of(mask).model_dump(), "comment": SECRET, **changes}
    rating = rating_of(output, row, rater, **given)
    take(output, json.dumps(rating).encode())
    return rating


def exported(output: Location, format: str = "nifti", **how: Any) -> Exported:
    _, done = export(output, [format], **how)
    assert not done.failed
    return done


def regions(output: Location, id: str) -> dict[str, NDArray[np.uint8]]:
    """The drawn regions of an image as NIfTI has them, ``(x, y, z)``, by the names of their files."""
    folder = Path(output.url) / "exports/nifti" / id
    found = sorted(folder.glob("*drawnBy*_mask.nii.gz"))
    return {path.name: np.asarray(nibabel.load(path).dataobj) for path in found}


def picture(output: Location, id: str) -> NDArray[np.uint8]:
    (found,) = regions(output, id).values()
    assert found.shape[2] == 1
    return found[:, :, 0].T


def predicted_class(output: Location, id: str) -> str:
    store = open_store(output)
    return str(store["class"].values[int(store["probability"].sel(image_id=id).argmax())])


def grey(folder: Path, shape: tuple[int, int], count: int = 1) -> None:
    for number in range(count):
        Picture.fromarray(RNG.integers(0, 256, shape).astype(np.uint8)).save(folder / f"{number}.png")


def test_a_region_of_a_picture_is_turned_back(tmp_path: Path) -> None:
    grey(tmp_path, (20, 26))
    turned = [transform("Rotate90", spatial_axes=[0, 1]), transform("Flip", spatial_axis=0)]
    output = run_on(tmp_path, "*.png", (26, 20), preprocessing=turned)
    index = np.arange(520).reshape(20, 26)
    there = np.flip(np.rot90(index), 0)
    drawn = np.zeros((26, 20), bool)
    drawn[3:7, 11:13] = drawn[25, 0] = True
    rate(output, "0.png", drawn)
    exported(output)
    np.testing.assert_array_equal(picture(output, "0.png"), np.isin(index, there[drawn]))


def test_a_region_on_a_finer_grid_is_looked_up_at_the_centres_of_the_sources_pixels(tmp_path: Path) -> None:
    grey(tmp_path, (8, 8), 2)
    output = run_on(tmp_path, "*.png", (24, 24), preprocessing=[transform("Resize", spatial_size=[24, 24])])
    centre = np.zeros((24, 24), bool)
    centre[3 * 2 + 1, 3 * 5 + 1] = True
    beside = np.zeros((24, 24), bool)
    beside[3 * 2, 3 * 5 + 1] = True
    rate(output, "0.png", centre)
    rate(output, "1.png", beside, "reader-a")
    rate(output, "1.png", centre | beside, "reader-b")
    exported(output)
    expected = np.zeros((8, 8), np.uint8)
    expected[2, 5] = 1
    np.testing.assert_array_equal(picture(output, "0.png"), expected)
    # A region that no pixel of the source is nearest to is no empty mask, which says that there is no finding.
    (name,) = regions(output, "1.png")
    assert "ReaderB" in name
    scores = json.loads((Path(output.url) / "exports/nifti/1.png/1-png_scores.json").read_text())
    assert scores["RegionsLeftOutAsOnNoVoxel"] == ["drawn by reader-a"]


def test_a_region_of_a_resampled_volume_lies_where_nibabel_puts_it(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", (14, 18, 10), without_shear(OBLIQUE))
    output = run_on(
        tmp_path,
        "*.nii.gz",
        (10, 10, 10),
        preprocessing=[
            transform("Orientation", axcodes="LPI"),
            transform("Rotate", angle=[0.2, -0.1, 0.3]),
            transform("Spacing", pixdim=[2.0, 2.0, 2.0]),
            transform("ResizeWithPadOrCrop", spatial_size=[10, 10, 10]),
        ],
    )
    drawn = np.zeros((10, 10, 10), bool)
    drawn[2:6, 3:5, 4:8] = drawn[6, 6, 6] = True
    rate(output, "a.nii.gz", drawn)
    exported(output)
    source = nibabel.load(tmp_path / "a.nii.gz")
    affine = open_store(output).sel(image_id="a.nii.gz")["affine"].values
    back = resample_from_to(nibabel.Nifti1Image(drawn.astype(np.uint8), affine), (source.shape, source.affine), order=0)
    (found,) = regions(output, "a.nii.gz").values()
    assert 0 < found.sum() != drawn.sum()
    np.testing.assert_array_equal(found, np.asarray(back.dataobj))


def test_a_voxel_of_a_padded_volume_comes_back_alone(tmp_path: Path) -> None:
    write_volume(tmp_path / "a.nii.gz", (12, 14, 10), without_shear(OBLIQUE))
    turned = [transform("Flip", spatial_axis=2), transform("SpatialPad", spatial_size=[16, 16, 16])]
    output = run_on(tmp_path, "*.nii.gz", (16, 16, 16), preprocessing=turned)
    drawn = np.zeros((16, 16, 16), bool)
    drawn[4, 5, 6] = True
    drawn[0, 0, 0] = True  # beside the source
    rate(output, "a.nii.gz", drawn)
    exported(output)
    (found,) = regions(output, "a.nii.gz").values()
    # (z, y, x), padded from (10, 14, 12) by 3, 1 and 2 on each side; x is turned round.
    assert np.argwhere(found).tolist() == [[11 - (6 - 2), 5 - 1, 4 - 3]]


def test_each_rater_and_target_has_a_file_and_free_text_stays(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    masks = {name: RNG.random((16, 16)) > 0.5 for name in ("Reader A", "reader-a", "both")}
    first = rate(output, "id-1", masks["Reader A"], "Reader A")
    rate(output, "id-1", masks["reader-a"], "reader-a")
    of_target = rate(output, "id-1", masks["both"], "reader-a", target="rank 1")
    rate(output, "id-1", np.zeros((16, 16), bool), "reference")
    exported(output)
    folder = Path(output.url) / "exports/nifti/id-1"
    by_rating = {}
    for path in folder.glob("*drawnBy*.json"):
        about = json.loads(path.read_text())
        mask = np.asarray(nibabel.load(path.with_suffix(".nii.gz")).dataobj)[:, :, 0].T
        by_rating[about["Rating"]] = (about["Rater"], about.get("Target"), mask)
    assert len(by_rating) == 4
    assert by_rating[first["id"]][:2] == ("Reader A", None)
    np.testing.assert_array_equal(by_rating[first["id"]][2], masks["Reader A"])
    assert by_rating[of_target["id"]][:2] == ("reader-a", "rank 1")
    np.testing.assert_array_equal(by_rating[of_target["id"]][2], masks["both"])
    assert sorted(regions(output, "id-1")) == [
        "id-1_desc-drawnByReaderA2_mask.nii.gz",
        "id-1_desc-drawnByReaderA_mask.nii.gz",
        "id-1_desc-drawnByReference_mask.nii.gz",
        "id-1_target-rank1_desc-drawnByReaderA2_mask.nii.gz",
    ]
    assert not any(SECRET.encode() in path.read_bytes() for path in folder.glob("*.json"))


def test_a_case_is_made_again_after_a_rating_and_others_stay(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    both = ("nifti", "ome-zarr")
    export(output, both)
    rate(output, "id-1", np.ones((16, 16), bool))
    rate(output, "id-2", np.ones((16, 16), bool), region=None)
    _, done = export(output, both)
    assert (done.written, done.kept) == (2, 18) and regions(output, "id-1")
    _, done = export(output, both)
    assert (done.written, done.kept) == (0, 20)
    rate(output, "id-1", np.eye(16, dtype=bool), time="2026-11-26T12:00:00Z")
    assert exported(output).written == 1 and picture(output, "id-1").sum() == 16
    rate(output, "id-1", np.eye(16, dtype=bool), time="2026-11-26T13:00:00Z", region=None)
    assert exported(output).written == 1 and not regions(output, "id-1")


def test_ratings_that_do_not_count_are_left_out(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))
    mask = np.ones((16, 16), bool)
    for id in ("id-4", "id-6", "id-7", "id-9"):
        rate(output, id, mask)
    kept = rate(output, "id-1", mask)
    region = Region.of(mask).model_dump()
    apart = [
        rating_of(output, 1, "other parts", region=region),
        rating_of(output, 1, " ", region=region),
        rating_of(output, 1, "other grid", region=Region.of(np.ones((8, 8), bool)).model_dump()),
        rating_of(output, 2, "other image", region=region),
    ]
    apart[0]["seen"]["parts"] = ["0" * 64]
    folder = output / "ratings/id-1"
    for one in apart:
        (folder / f"{one['id']}.json").write(json.dumps(one).encode())
    (folder / "x.json").write(b"{")
    withdraw(output, "patient-3")
    cohort.add([9], version=1)
    carry_out(cohort.content(output))
    chosen, done = export(output, ["nifti"])
    assert chosen.left_out == {"withdrawn": 2} and not done.failed
    found = {
        json.loads(path.read_text())["Rating"]: path.parent.name
        for path in (Path(output.url) / "exports/nifti").glob("*/*drawnBy*.json")
    }
    assert found.keys() >= {kept["id"]} and {*found.values()} == {"id-1", "id-4"} and len(found) == 2


def test_segmentations_are_one_a_rating_on_the_planes_of_the_source(tmp_path: Path) -> None:
    flip = transform("Flip", spatial_axis=0)
    carry_out(given := content(tmp_path, [5, 4, 6], preprocessing=[flip]))
    output, to = Location(url=given["output"]), tmp_path / "to"
    id = id_of(output, "p1")
    drawn = np.zeros((5, 4, 6), bool)
    drawn[1, 1:3, 2:5] = drawn[4, 0, 5] = True
    first = rate(output, id, drawn, "Reader^A", target="rank 1")

    def made() -> dict[str, Path]:
        exported(output, "dicom-seg", to=Location(url=str(to)), ids=[id])
        return {path.name.partition("_")[2]: path for path in to.glob("*/*/*.dcm")}

    before = {name: dcmread(path).SOPInstanceUID for name, path in made().items()}
    rate(output, id, ~drawn, "reader-b" * 12)
    found = made()
    assert found.keys() > before.keys() and len(found) == 4  # of two maps, and two raters
    for name, uid in before.items():
        assert dcmread(found[name]).SOPInstanceUID == uid
    for path in found.values():
        assert errors(path.read_bytes(), tmp_path) == [] and SECRET.encode() not in path.read_bytes()
    segmented = hd.seg.segread(found["target-rank1_desc-drawnByReaderA_seg.dcm"])
    (segment,) = segmented.SegmentSequence
    assert (
        segment.SegmentLabel == f"drawn by Reader^A for {predicted_class(output, id)}"
        and segment.SegmentAlgorithmType == "MANUAL"
    )
    assert segmented.ContentCreatorName == "Reader A" and first["id"] in segmented.DerivationDescription
    volume = segmented.get_volume(combine_segments=True)
    affine = open_store(output).sel(image_id=id)["affine"].values
    in_patient = [
        matrix @ [*np.argwhere(marked).T, np.ones(marked.sum())]
        for matrix, marked in (
            (np.diag([-1, -1, 1, 1]) @ volume.affine, np.asarray(volume.array) == 1),
            (affine, drawn),
        )
    ]
    by_place = [points[:, np.lexsort(np.round(points, 3))] for points in in_patient]
    np.testing.assert_allclose(*by_place, atol=1e-4)


def test_labels_of_ome_zarr_say_who_drew_them(tmp_path: Path) -> None:
    grey(tmp_path, (20, 150))
    output = run_on(tmp_path, "*.png", (20, 150), preprocessing=[transform("Flip", spatial_axis=1)])
    drawn = np.zeros((20, 150), bool)
    drawn[7, 30] = True
    rating = rate(output, "0.png", drawn, "Reader A", target="rank 1")
    rate(output, "0.png", ~drawn, "b")
    exported(output, "ome-zarr")
    (path,) = (Path(output.url) / "exports/ome-zarr/0.png").glob("*.ome.zarr")
    group = zarr.open_group(path, mode="r")
    labels = Image.from_zarr(group).labels
    assert labels is not None
    assert labels.label_paths == ["target-rank1_desc-drawnByReaderA", "desc-drawnByB"]
    for level in ("0", "1"):
        array = group[f"labels/{labels.label_paths[0]}/{level}"][:]
        (place,) = np.argwhere(array).tolist()
        assert place == [7, 119 // (1 + int(level))]
    predicted = predicted_class(output, "0.png")
    shown = group[f"labels/{labels.label_paths[0]}"].attrs["ome"]["image-label"]
    assert shown["properties"] == [
        {
            "label-value": 1,
            "rater": "Reader A",
            "rating": rating["id"],
            "time": "2026-11-26T10:15:00+00:00",
            "target": "rank 1",
            "explained": predicted,
        }
    ]
    assert not any(SECRET.encode() in file.read_bytes() for file in path.rglob("*.json"))
