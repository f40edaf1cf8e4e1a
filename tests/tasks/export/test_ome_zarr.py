"""OME-Zarr 0.5, validated by ome-zarr-models, its values and places held against arithmetic of the tests' own."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import zarr
from numpy.typing import NDArray
from ome_zarr_models.v05 import Image
from PIL import Image as Picture

from tasks.export.export import export
from tasks.storage.location import Location
from tests.tasks.export.made import STRAIGHT, run_on, transform, write_colours, write_volume


def opened(output: Location, id: str) -> Any:
    _, done = export(output, ["ome-zarr", "nifti"], ids=[id])
    assert not done.failed
    (path,) = (Path(output.url) / "exports/ome-zarr" / id).glob("*.ome.zarr")
    return zarr.open_group(path, mode="r")


def in_nifti(output: Location, id: str, ending: str) -> NDArray[Any]:
    (path,) = (Path(output.url) / "exports/nifti" / id).glob(f"*{ending}.nii.gz")
    return np.asarray(nibabel.load(path).dataobj).T


def scale_of(dataset: Any) -> tuple[Any, Any]:
    scale, translation = dataset.coordinateTransformations
    return np.array(scale.scale), np.array(translation.translation)


@pytest.fixture
def volume(tmp_path: Path) -> Location:
    """An output with a volume of 150 x 70 x 10 voxels of 0.5, 1 and 4 mm, of which the network sees a part."""
    affine = STRAIGHT @ np.diag([1 / 3, 0.8, 2, 1])
    write_volume(tmp_path / "a.nii.gz", (150, 70, 10), affine)
    mask = np.zeros((150, 70, 10), np.uint8)
    mask[41, 33, 5] = 1
    nibabel.save(nibabel.Nifti1Image(mask, affine), tmp_path / "mask.nii.gz")
    (tmp_path / "cohort.csv").write_text("uri,id,mask\na.nii.gz,a,mask.nii.gz\n")
    crop = transform("ResizeWithPadOrCrop", spatial_size=[10, 64, 96])
    return run_on(tmp_path, "cohort.csv", (10, 64, 96), preprocessing=[crop])


def test_a_volume_is_a_valid_image_with_explainers_as_channels(volume: Location) -> None:
    group = opened(volume, "a")
    model = Image.from_zarr(group)
    (multiscale,) = model.ome_attributes.multiscales
    assert [(axis.name, axis.type, axis.unit) for axis in multiscale.axes] == [
        ("c", "channel", None),
        *((name, "space", "millimeter") for name in "zyx"),
    ]
    labels = [channel["label"] for channel in group.attrs["ome"]["omero"]["channels"]]
    assert labels[0] == "image" and [label.split(" for ")[0] for label in labels[1:]] == [
        "saliency",
        "input_x_gradient",
    ]
    first = group["0"][:]
    assert first.dtype == np.float32 and first.shape == (3, 10, 70, 150)
    source = np.asarray(nibabel.load(Path(volume.url).parent / "a.nii.gz").dataobj).T
    np.testing.assert_array_equal(first[0], source)
    np.testing.assert_array_equal(first[2], in_nifti(volume, "a", "desc-inputXGradient_map"))
    assert (first[2] < 0).any() and (first[2] > 0).any()


def test_a_pyramid_halves_the_fine_axes_by_the_mean_and_keeps_its_place(volume: Location) -> None:
    group = opened(volume, "a")
    (multiscale,) = Image.from_zarr(group).ome_attributes.multiscales
    arrays = [group[dataset.path][:] for dataset in multiscale.datasets]
    assert [array.shape[1:] for array in arrays] == [(10, 70, 150), (10, 70, 75), (10, 35, 38)]
    np.testing.assert_allclose(arrays[1], arrays[0].reshape(3, 10, 70, 75, 2).mean(-1), atol=1e-5)
    np.testing.assert_allclose(
        arrays[2][..., :37], arrays[1][..., :74].reshape(3, 10, 35, 2, 37, 2).mean((3, 5)), atol=1e-5
    )
    # A voxel of a level lies at the mean of the places of those that it is made of.
    for before, after, factors in zip(
        multiscale.datasets, multiscale.datasets[1:], ((1, 1, 2), (1, 2, 2)), strict=False
    ):
        (fine, fine_at), (coarse, coarse_at) = scale_of(before), scale_of(after)
        np.testing.assert_allclose(coarse[1:], fine[1:] * factors)
        np.testing.assert_allclose(coarse_at[1:], fine_at[1:] + fine[1:] * (np.array(factors) - 1) / 2)
    np.testing.assert_allclose(scale_of(multiscale.datasets[0])[0], [1, 4, 1, 0.5], rtol=1e-6)
    np.testing.assert_allclose(
        np.array(group.attrs["cohortlens"]["affine"])[:, [2, 1, 0, 3]],
        nibabel.load(Path(volume.url).parent / "a.nii.gz").affine,
        atol=1e-6,
    )


def test_masks_are_labels_and_a_small_one_is_in_every_level(volume: Location) -> None:
    group = opened(volume, "a")
    labels = Image.from_zarr(group).labels
    assert labels is not None and labels.label_paths == ["reference", "seen"]
    for level, sides in (("0", (10, 70, 150)), ("1", (10, 70, 75)), ("2", (10, 35, 38))):
        mask = group[f"labels/reference/{level}"][:]
        assert mask.shape == sides and mask.dtype == np.uint8
        assert mask[5, 33 * sides[1] // 70, 41 * sides[2] // 150] == mask.sum() == 1
    seen = group["labels/seen/0"][:]
    assert seen.sum() == 10 * 64 * 96
    np.testing.assert_array_equal(seen, in_nifti(volume, "a", "desc-seen_mask"))


def test_colours_are_channels_in_pixels_without_a_unit(tmp_path: Path) -> None:
    write_colours(tmp_path, 2, (20, 26))
    output = run_on(tmp_path, "*.png", (16, 16), 3, preprocessing=[transform("Resize", spatial_size=[16, 16])])
    group = opened(output, "1.png")
    (multiscale,) = Image.from_zarr(group).ome_attributes.multiscales
    assert [axis.unit for axis in multiscale.axes] == [None] * 3 and group["0"].shape == (5, 20, 26)
    shown = group.attrs["ome"]["omero"]["channels"]
    assert [one["color"] for one in shown[:3]] == ["FF0000", "00FF00", "0000FF"]
    np.testing.assert_array_equal(group["0"][:3], np.asarray(Picture.open(tmp_path / "1.png")).transpose(2, 0, 1))
    assert "labels" not in group and group.attrs["cohortlens"]["affine"] is None


def test_the_ends_of_a_map_are_the_same_in_all_cases(tmp_path: Path) -> None:
    write_colours(tmp_path, 3, (16, 16))
    output = run_on(tmp_path, "*.png", (16, 16), 3)
    windows = []
    for number in range(3):
        channels = opened(output, f"{number}.png").attrs["ome"]["omero"]["channels"]
        windows.append([one["window"] for one in channels[3:]])
    assert windows[0] == windows[1] == windows[2] and all(one["end"] == -one["start"] > 0 for one in windows[0])
