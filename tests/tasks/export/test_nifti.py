"""NIfTI on the grids of sources, read by nibabel, held against its resampling and MONAI's inverses."""

import json
import shutil
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pydicom
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, Flipd, Invertd, LoadImaged, Orientationd, SpatialPadd
from nibabel.processing import resample_from_to
from PIL import Image

from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tasks.export.export import export
from tasks.export.folders import RECORD
from tasks.storage.location import Location
from tasks.store.template import open_store
from tests.tasks.export.made import (
    OBLIQUE,
    RNG,
    STRAIGHT,
    run_on,
    transform,
    without_shear,
    write_colours,
    write_volume,
)

PLACED = without_shear(OBLIQUE)
RESAMPLED = (
    transform("Orientation", axcodes="RAS"),
    transform("Spacing", pixdim=[2.0, 2.0, 2.0]),
    transform("ResizeWithPadOrCrop", spatial_size=[10, 10, 10]),
)


def exported(output: Location, **how: Any) -> Path:
    """Export everything, and say where the cases are."""
    _, done = export(output, ["nifti"], **how)
    assert not done.failed
    return Path(output.url) / "exports/nifti"


def loaded(folder: Path, ending: str) -> Any:
    (path,) = folder.glob(f"*{ending}.nii.gz")
    return nibabel.load(path)


@pytest.fixture
def volumes(tmp_path: Path) -> Path:
    write_volume(tmp_path / "a.nii.gz", (14, 18, 10), PLACED)
    write_volume(tmp_path / "b.nii.gz", (11, 16, 12), STRAIGHT, qform=True)
    return tmp_path


def test_a_resampled_volume_comes_back_as_nibabel_brings_it(volumes: Path) -> None:
    output = run_on(volumes, "*.nii.gz", (10, 10, 10), preprocessing=list(RESAMPLED))
    cases, store = exported(output), open_store(output)
    for name in ("a.nii.gz", "b.nii.gz"):
        source, image = nibabel.load(volumes / name), store.sel(image_id=name)
        seen = loaded(cases / name, "desc-seen_mask").get_fdata() == 1
        assert 0.2 < seen.mean() < 1  # the grid is smaller than the sources
        for explainer, ending in (("saliency", "desc-saliency_map"), ("input_x_gradient", "desc-inputXGradient_map")):
            stored = image["attribution"].isel(target=0).sel(explainer=explainer).values
            grid = nibabel.Nifti1Image(stored, image["affine"].values)
            back = resample_from_to(grid, (source.shape, source.affine), order=1, mode="nearest").get_fdata()
            found = loaded(cases / name, ending)
            assert found.get_data_dtype() == np.float32 and found.shape == source.shape
            np.testing.assert_allclose(found.affine, source.affine, atol=1e-6)
            np.testing.assert_allclose(found.get_fdata()[seen], back[seen], atol=1e-5 * np.abs(stored).max())
            assert not found.get_fdata()[~seen].any()
            assert ((found.get_fdata() < 0).any(), (found.get_fdata() > 0).any()) == (True, True)


def test_a_volume_that_was_turned_and_padded_comes_back_bit_for_bit_as_by_invertd(volumes: Path) -> None:
    turned = [
        transform("Orientation", axcodes="LPI"),
        transform("Flip", spatial_axis=1),
        transform("SpatialPad", spatial_size=[20, 20, 20]),
    ]
    output = run_on(volumes, "*.nii.gz", (20, 20, 20), preprocessing=turned, axes="monai")
    cases, store = exported(output), open_store(output)
    compose = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="LPI"),
            Flipd("image", spatial_axis=1),
            SpatialPadd("image", spatial_size=[20, 20, 20]),
        ]
    )
    for name in ("a.nii.gz", "b.nii.gz"):
        there = compose({"image": volumes / name})
        stored = store.sel(image_id=name)["attribution"].isel(target=0).sel(explainer="input_x_gradient").values
        there["map"] = MetaTensor(torch.from_numpy(stored[None].copy()), meta=there["image"].meta)
        back = Invertd("map", compose, orig_keys="image", nearest_interp=False)(there)["map"]
        found = loaded(cases / name, "desc-inputXGradient_map")
        np.testing.assert_array_equal(np.asarray(found.dataobj), back.numpy()[0])
        np.testing.assert_allclose(found.affine, nibabel.load(volumes / name).affine, atol=1e-6)
        assert not list((cases / name).glob("*seen*"))
        about = json.loads(next((cases / name).glob("*desc-inputXGradient_map.json")).read_text())
        assert about["Interpolation"] == "none" and about["Explainer"] == "input_x_gradient"


def test_an_affine_with_shear_is_in_the_sform_alone(tmp_path: Path) -> None:
    tilted = STRAIGHT.copy()
    tilted[:3, 2] += [0, 0.6, 0]
    write_volume(tmp_path / "a.nii.gz", (12, 12, 12), tilted)
    output = run_on(tmp_path, "*.nii.gz", (12, 12, 12))
    found = loaded(exported(output) / "a.nii.gz", "desc-saliency_map")
    assert int(found.header["qform_code"]) == 0 and int(found.header["sform_code"]) == 1
    np.testing.assert_allclose(found.affine, tilted, atol=1e-6)


def test_a_colour_picture_has_no_geometry_and_claims_none(tmp_path: Path) -> None:
    write_colours(tmp_path, 2)
    size = transform("Resize", spatial_size=[16, 16], mode="bilinear")
    output = run_on(tmp_path, "*.png", (16, 16), channels=3, preprocessing=[size])
    found = loaded(exported(output) / "0.png", "desc-saliency_map")
    assert found.shape == (26, 20, 1)
    assert int(found.header["qform_code"]) == int(found.header["sform_code"]) == 0


def test_a_dicom_series_in_any_order_of_files_comes_back_into_the_patient(tmp_path: Path) -> None:
    for number in range(2):
        _write_series(tmp_path / f"{number}", f"series-{number}", 12)
    size = transform("Resize", spatial_size=[8, 12, 12], mode="trilinear")
    output = run_on(tmp_path, "*/*.dcm", (8, 12, 12), preprocessing=[size])
    cases, store = exported(output), open_store(output)
    for row, id in enumerate(store["image_id"].values):
        slices = [pydicom.dcmread(path) for path in tmp_path.glob("[01]/*.dcm")]
        own = sorted(
            (one for one in slices if one.PatientID == f"series-{row}"), key=lambda one: one.ImagePositionPatient[2]
        )
        found = loaded(cases / str(id).replace("/", "%2F"), "desc-inputXGradient_map")
        assert found.shape == (own[0].Columns, own[0].Rows, len(own))
        for index in ((0, 0, 0), (5, 3, 11), (13, 9, 4)):
            np.testing.assert_allclose((found.affine @ [*index, 1])[:3], _place(own[index[2]], *index[:2]), atol=1e-4)
        stored = store["attribution"].isel(image_id=row, target=0).sel(explainer="input_x_gradient").values
        grid = nibabel.Nifti1Image(stored, store["affine"].values[row])
        back = resample_from_to(grid, (found.shape, found.affine), order=1, mode="nearest").get_fdata()
        np.testing.assert_allclose(found.get_fdata(), back, atol=1e-5 * np.abs(stored).max())


def test_a_slice_for_a_network_of_pictures_is_a_volume_of_one_slice_in_its_place(tmp_path: Path) -> None:
    _write_series(tmp_path, "slice", 1)
    output = run_on(
        tmp_path, "*.dcm", (12, 16), preprocessing=[transform("Flip", spatial_axis=0)], identifiers="as given"
    )
    found = loaded(exported(output) / "0.dcm", "desc-inputXGradient_map")
    (dataset,) = [pydicom.dcmread(path) for path in tmp_path.glob("*.dcm")]
    assert found.shape == (16, 12, 1)
    np.testing.assert_allclose((found.affine @ [7, 2, 0, 1])[:3], _place(dataset, 7, 2), atol=1e-4)
    stored = open_store(output)["attribution"].isel(image_id=0, target=0).sel(explainer="input_x_gradient").values
    np.testing.assert_array_equal(np.asarray(found.dataobj)[:, :, 0].T, stored[::-1])


def test_frames_and_sequences_lie_where_their_own_file_does(volumes: Path) -> None:
    folder = volumes / "pairs"
    folder.mkdir()
    write_volume(folder / "x_t1.nii.gz", (12, 14, 10), PLACED)
    shifted = PLACED + np.outer([2, 3, -4, 0], [0, 0, 0, 1])
    write_volume(folder / "x_t2.nii.gz", (9, 16, 12), shifted)
    size = transform("Resize", spatial_size=[10, 10, 10], mode="trilinear")
    output = run_on(
        folder, "*.nii.gz", (10, 10, 10), channels=2, preprocessing=[size], sequences=["t2", "t1"], align="to first",
    )  # fmt: skip
    found = loaded(exported(output) / "x", "desc-saliency_map")
    assert found.shape == (9, 16, 12)
    np.testing.assert_allclose(found.affine, nibabel.load(folder / "x_t2.nii.gz").affine, atol=1e-6)


def test_a_time_point_and_a_slice_are_images_of_their_own(tmp_path: Path) -> None:
    values = RNG.normal(size=(12, 16, 3)).astype(np.float32)
    nibabel.save(nibabel.Nifti1Image(values, PLACED), tmp_path / "a.nii.gz")
    output = run_on(tmp_path, "*.nii.gz", (16, 12), frames="images")
    for number in range(3):
        found = loaded(exported(output) / f"a.nii.gz%23{number + 1}", "desc-saliency_map")
        np.testing.assert_allclose(found.affine @ [4, 5, 0, 1], PLACED @ [4, 5, number, 1], atol=1e-5)


def test_masks_scores_and_names_are_beside_the_maps(tmp_path: Path) -> None:
    write_colours(tmp_path, 3)
    rows = []
    for number in range(3):
        mask = np.zeros((20, 26), np.uint8)
        mask[4:9, 5 + number : 12] = 255
        Image.fromarray(mask).save(tmp_path / f"mask-{number}.png")
        rows.append(f"{number}.png,case {number},a,mask-{number}.png")
    (tmp_path / "cohort.csv").write_text("\n".join(["uri,id,label,mask", *rows]) + "\n")
    output = run_on(
        tmp_path, "cohort.csv", (16, 16), channels=3,
        preprocessing=[transform("CenterSpatialCrop", roi_size=[16, 16])],
        explainers=("saliency", "control_random"),
        top={"target": {"name": "classes", "classes": ["a", "b"]}, "metrics": ["hit_rate"]},
    )  # fmt: skip
    folder = exported(output) / "case 1"
    names = {path.name for path in folder.iterdir()}
    maps = {f"case-1_target-{target}_desc-saliency_map" for target in ("a", "b")}
    masks = {"case-1_desc-reference_mask", "case-1_desc-seen_mask"}
    both = {f"{name}{ending}" for name in maps | masks for ending in (".json", ".nii.gz")}
    assert names == both | {"case-1_scores.json", RECORD}
    mask = np.asarray(loaded(folder, "desc-reference_mask").dataobj)[:, :, 0].T
    expected = np.zeros((20, 26), np.uint8)
    expected[4:9, 6:12] = 1
    np.testing.assert_array_equal(mask, expected)
    seen = np.asarray(loaded(folder, "desc-seen_mask").dataobj)[:, :, 0].T
    assert seen.sum() == 256 and seen[2:18, 5:21].all()
    scores = json.loads((folder / "case-1_scores.json").read_text())
    store = open_store(output).sel(image_id="case 1")
    assert scores["Image"] == "case 1" and scores["Label"] == "a"
    assert scores["probability"]["b"] == pytest.approx(float(store["probability"].values[1]), rel=1e-6)
    hit = store["metric_hit_rate"].sel(target="b", explainer="saliency").item()
    assert scores["metric_hit_rate"]["b"]["saliency"] == (None if np.isnan(hit) else hit)
    again = (folder / "case-1_target-a_desc-saliency_map.nii.gz").read_bytes()
    shutil.rmtree(folder)
    assert (exported(output) / "case 1/case-1_target-a_desc-saliency_map.nii.gz").read_bytes() == again


def _write_series(folder: Path, name: str, count: int) -> None:
    """Write the slices of a tilted series, as files in another order than in the patient."""
    folder.mkdir(exist_ok=True)
    pixels = RNG.random((count, 12, 16), np.float32)
    affine = PLACED[:, [2, 1, 0, 3]]
    encoded = list(dicom_slices(Phantom(pixels, pixels > 2, affine), name))
    for number, place in enumerate(RNG.permutation(count)):
        (folder / f"{number}.dcm").write_bytes(encoded[place])


def _place(dataset: Any, column: int, row: int) -> Any:
    """Compute where a pixel lies, by PS3.3 C.7.6.2.1.1, in RAS mm."""
    along = np.array(dataset.ImageOrientationPatient, float).reshape(2, 3)
    spacing = dataset.PixelSpacing
    lps = np.array(dataset.ImagePositionPatient, float)
    lps += along[0] * float(spacing[1]) * column + along[1] * float(spacing[0]) * row
    return lps * [-1, -1, 1]
