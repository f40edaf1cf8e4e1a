"""Relevance by region, of grey and white matter in the halves of a real brain, against nilearn and nibabel."""

from importlib.resources import files
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from nibabel.processing import resample_from_to
from nilearn.maskers import NiftiLabelsMasker

from models.errors import ConfigurationError
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.plan.regions import Regions
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.upkeep.verify import repair, verify
from tasks.upkeep.withdraw import withdraw
from tasks.work.finish import summarise
from tests.tasks.outputs import Cohort, carry_out, explained, planned, prepared, squares_model, stored

STEP = 10
"""The template has voxels of 1 mm; these tests have them of 10."""

SHAPE = (20, 24, 19)  # (x, y, z)
NAMES = {1: "left grey", 2: "right grey", 13: "white", 14: "white"}
IMAGES = 8
ELSEWHERE, MIRRORED = 5, 6
"""An image that lies elsewhere, and one whose x runs to the patient's left."""


def template(name: str) -> tuple[np.ndarray, np.ndarray]:
    path = files("nilearn.datasets.data") / f"mni_icbm152_{name}_tal_nlin_sym_09a_converted.nii.gz"
    image = nibabel.Nifti1Image.from_filename(str(path))
    pixels = np.asarray(image.dataobj, np.float32)[::STEP, ::STEP, ::STEP]
    return pixels, image.affine @ np.diag([STEP, STEP, STEP, 1])


def save(path: Path, pixels: np.ndarray, affine: np.ndarray) -> None:
    nibabel.save(nibabel.Nifti1Image(pixels, affine), path)


class Brains(Cohort):
    """Noisy copies of the template in NIfTI, and an atlas of it."""

    def __init__(self, folder: Path, images: int = IMAGES, affines: dict[int, np.ndarray] | None = None) -> None:
        folder.mkdir()
        self.folder = folder
        network = {"_target_": "monai.networks.nets.Classifier", "in_shape": [1, *SHAPE[::-1]], "classes": 2}
        self.model = squares_model(folder, ("a", "b"), network | {"channels": [4], "strides": [2]})
        self.model["input_shape"] = list(SHAPE[::-1])
        self.atlas = folder / "labels.nii.gz"
        grey, affine = template("gm")
        white, _ = template("wm")
        assert grey.shape == SHAPE
        labels = np.where(grey > 0.3, 1, np.where(white > 0.3, 13, 0)).astype(np.int16)
        right = (affine[0, 3] + affine[0, 0] * np.arange(SHAPE[0])) > 0
        labels[right] += labels[right] > 0
        save(self.atlas, labels, affine)
        self.affines = {number: affine for number in range(images)} | (affines or {})
        pixels, _ = template("t1")
        rows = []
        for number, own in self.affines.items():
            noise = np.random.default_rng(number).normal(size=SHAPE).astype(np.float32)
            save(folder / f"{number}.nii.gz", pixels / pixels.max() + 0.2 * noise, own)
            row = {"id": f"id-{number}", "uri": f"{number}.nii.gz", "subject": f"patient-{number // 2}"}
            rows.append(row | {"label": "ab"[number // 2 % 2]})
        pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)

    def content(self, output: Location, **changes: Any) -> dict[str, Any]:
        result = {"name": "regions", "atlas": str(self.atlas), "names": NAMES, "flag_outside": 0.773}
        own = {"explainers": ["saliency", "control_random"], "results": [result]}
        return super().content(output, **own | changes)


@pytest.fixture(scope="module")
def brains(tmp_path_factory: pytest.TempPathFactory) -> Brains:
    _, affine = template("gm")
    elsewhere = affine.copy()
    elsewhere[0, 3] += 1000
    mirrored = affine @ np.diag([-1.0, 1, 1, 1])
    mirrored[:3, 3] = (affine @ [SHAPE[0] - 1, 0, 0, 1])[:3] + np.array([3, 2, -4])
    return Brains(tmp_path_factory.mktemp("brains") / "cohort", affines={ELSEWHERE: elsewhere, MIRRORED: mirrored})


@pytest.fixture(scope="module")
def output(brains: Brains, tmp_path_factory: pytest.TempPathFactory) -> Location:
    output = Location(url=str(tmp_path_factory.mktemp("regions") / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "_LARGEST_SHARD", 3)
        carry_out(brains.content(output), report=True)
    assert verify(output) == []
    return output


@pytest.fixture(scope="module")
def store(output: Location) -> xr.Dataset:
    return open_store(output).load()


def image_of(store: xr.Dataset, number: int, explainer: str) -> nibabel.Nifti1Image:
    """The stored map of an image as NIfTI."""
    one = store.sel(image_id=f"id-{number}", explainer=explainer).isel(target=0)
    return nibabel.Nifti1Image(one.attribution.values.T, one.affine.sel(voxel=["x", "y", "z", "1"]).values)


def atlas_on(brains: Brains, image: nibabel.Nifti1Image) -> nibabel.Nifti1Image:
    """The atlas on the grid of an image, with labels of one name made one."""
    labels = resample_from_to(nibabel.Nifti1Image.from_filename(brains.atlas), image, order=0, mode="grid-constant")
    merged = np.asarray(labels.dataobj).astype(np.int32)
    return nibabel.Nifti1Image(np.where(merged == 14, 13, merged), image.affine)


@pytest.mark.parametrize("explainer", ["saliency", "control_random"])
@pytest.mark.parametrize("number", [0, MIRRORED])
def test_sums_and_means_are_those_of_nilearn(brains: Brains, store: xr.Dataset, number: int, explainer: str) -> None:
    image = image_of(store, number, explainer)
    assert store.regions.values.tolist() == ["left grey", "right grey", "white"]
    for measure in ("sum", "mean"):
        masker = NiftiLabelsMasker(atlas_on(brains, image), strategy=measure, resampling_target=None)
        expected = np.ravel(masker.fit_transform(image))
        found = store[f"regions_{measure}"].sel(image_id=f"id-{number}", explainer=explainer).isel(target=0)
        np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6 * np.abs(expected).max())


@pytest.mark.parametrize("number", [0, MIRRORED])
def test_shares_volumes_and_sides_are_those_of_a_plain_count(brains: Brains, store: xr.Dataset, number: int) -> None:
    image = image_of(store, number, "saliency")
    labels, magnitude = np.asarray(atlas_on(brains, image).dataobj), np.abs(image.get_fdata())
    found = store.sel(image_id=f"id-{number}", explainer="saliency").isel(target=0)
    inside = [labels == label for label in (1, 2, 13)]
    expected = [magnitude[region].sum() / magnitude.sum() for region in inside]
    np.testing.assert_allclose(found.regions_share, expected, rtol=1e-5)
    np.testing.assert_allclose(found.regions_outside, 1 - sum(expected), rtol=1e-5)
    np.testing.assert_allclose(found.regions_volume, [region.mean() for region in inside], rtol=1e-6)
    x = nibabel.affines.apply_affine(image.affine, np.moveaxis(np.indices(SHAPE), 0, -1))[..., 0]
    left, right = (magnitude[(labels > 0) & side].sum() for side in (x < -1e-3, x > 1e-3))
    np.testing.assert_allclose(found.regions_laterality, (left - right) / (left + right), rtol=1e-4)


def test_what_the_atlas_does_not_reach_is_nan_and_flagged(store: xr.Dataset) -> None:
    measures = [store[f"regions_{name}"] for name in ("sum", "mean", "share", "volume", "outside", "laterality")]
    for measure in measures:
        assert np.isnan(measure.values[ELSEWHERE]).all() and np.isfinite(np.delete(measure.values, ELSEWHERE, 0)).all()
        assert measure.attrs["kind"] == "region"
    assert (store.regions_flags.values[ELSEWHERE] == 2).all()
    rest = np.delete(store.regions_flags.values, ELSEWHERE, 0)
    outside = np.delete(store.regions_outside.values, ELSEWHERE, 0)
    assert np.array_equal(rest == 4, outside > 0.773) and (rest == 4).any() and (rest == 0).any()


def test_the_summary_counts_their_flags(output: Location, store: xr.Dataset) -> None:
    flags = store.regions_flags.values.reshape(IMAGES, -1)
    of_images = (store.image_flags.values > 0) | (store.map_flags.values.reshape(IMAGES, -1) > 0).any(1)
    summary = summarise(output)
    assert summary.flags["regions outside"] == (flags & 4 > 0).any(1).sum()
    assert (
        summary.flags["regions no overlap"] == (flags & 2 > 0).any(1).sum()
        and "regions no geometry" not in summary.flags
    )
    assert summary.flagged == (of_images | (flags > 0).any(1)).sum() > of_images.sum()


def test_the_report_has_a_section_of_them(output: Location) -> None:
    page = (output / "report/index.html").read().decode()
    for shown in ("In which regions?", "left grey", "Images that the atlas does not reach", "more than 77.3 % outside"):
        assert shown in page
    assert "No region&#39;s share differs" in page or "No region's share differs" in page


def test_damage_is_mended_to_the_byte(output: Location) -> None:
    before = stored(output)
    keys = [key for key in before if key.startswith("regions_") and "/c/" in key]
    assert len(keys) == 7 * 3
    for key in (keys[0], keys[-1]):
        (output / "explanations.zarr" / key).write(b"damaged")
    found = verify(output)
    assert found
    repair(output, found)
    assert verify(output) == [] and stored(output) == before


def test_the_order_of_shards_does_not_matter(brains: Brains, output: Location, tmp_path: Path) -> None:
    other = Location(url=str(tmp_path / "out"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shards_module, "_LARGEST_SHARD", 3)
        plan = planned(brains.content(other)).plan
        for shard in reversed(plan.shards):
            explained(other, [shard.index])
        carry_out(brains.content(other))
    own = [key for key in stored(output) if key.startswith("regions")]
    assert own and all(stored(output)[key] == stored(other)[key] for key in own)


def test_what_is_withdrawn_leaves_the_regions_of_others_as_they_were(brains: Brains, tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    carry_out(brains.content(output))
    before = open_store(output).load()
    assert withdraw(output, "patient-1").whole and verify(output) == []
    after = open_store(output).load()
    rest = [row for row in range(IMAGES) if row not in (2, 3)]
    for name in (name for name in after if str(name).startswith("regions_")):
        assert np.array_equal(after[name].values[rest], before[name].values[rest], equal_nan=True)
    assert np.isnan(after.regions_share.values[2:4]).all() and (after.regions_flags.values[2:4] == 0).all()


def test_the_plan_names_every_label_and_the_digest(output: Location, brains: Brains) -> None:
    result = Plan.read(output).results[0].result
    assert isinstance(result, Regions) and result.names == NAMES and result.sha256 is not None
    bare = Regions.model_validate({"atlas": str(brains.atlas)}).pinned()
    assert bare.regions == ("1", "2", "13", "14")


def shifted(labels: np.ndarray, affine: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    moved = affine.copy()
    moved[1, 3] += 500
    return labels, moved


@pytest.mark.parametrize(
    ("change", "field", "message"),
    [
        (shifted, {}, r"of the shape \(19, 24, 20\) \(z, y, x\), reaches none of 3 images .* is 500 mm away"),
        (lambda labels, affine: (labels, None), {}, "has no affine that places it in the patient"),
        (lambda labels, affine: (labels + np.float32(0.5), affine), {}, "values that are no whole numbers"),
        (lambda labels, affine: (labels - 1, affine), {}, "labels from -1 to 13"),
        (lambda labels, affine: (0 * labels, affine), {}, "is 0 everywhere"),
        (lambda labels, affine: (np.arange(labels.size).reshape(SHAPE), affine), {}, "9119 labels, and an atlas"),
        (lambda labels, affine: (np.stack([labels] * 2, -1), affine), {}, "has 2 volumes"),
        (None, {"names": {3: "stem"}}, "has no label 3, which `names` has"),
        (None, {"sha256": "0" * 64}, "it is another file"),
        (None, {"atlas": "nowhere.nii"}, r"there is no file .*nowhere.nii \(atlas\)"),
    ],
)
def test_what_is_no_atlas_of_the_images_is_refused(
    brains: Brains, tmp_path: Path, change: Any, field: dict[str, Any], message: str
) -> None:
    image = nibabel.Nifti1Image.from_filename(brains.atlas)
    path = brains.atlas
    if change:
        labels, affine = change(np.asarray(image.dataobj), image.affine)
        path = tmp_path / "atlas.nii"
        made = nibabel.Nifti1Image(labels.astype(np.float32), affine)
        if affine is None:
            made.header["sform_code"] = made.header["qform_code"] = 0
        nibabel.save(made, path)
    content = brains.content(Location(url=str(tmp_path / "out")))
    content["results"] = [{"name": "regions", "atlas": str(path)} | field]
    with pytest.raises(ConfigurationError, match=message):
        prepared(content)


def test_images_without_geometry_have_no_regions(brains: Brains, tmp_path: Path) -> None:
    pictures = Cohort(tmp_path / "cohort", range(4))
    content = pictures.content(
        Location(url=str(tmp_path / "out")), results=[{"name": "regions", "atlas": str(brains.atlas)}]
    )
    with pytest.raises(ConfigurationError, match="none of 3 images that were tried has an affine"):
        prepared(content)
