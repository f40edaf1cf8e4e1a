"""`cohort.axes: monai` hands over what MONAI's own loader and transforms do."""

import warnings
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from monai.transforms import LoadImage
from numpy.typing import NDArray
from PIL import Image

from models.components import instantiate, locate
from models.errors import ConfigurationError
from models.preprocessing import NAMESPACES, Preprocessed, Preprocessing
from tasks.cohort.readers import read
from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tasks.storage.location import Location
from tasks.store.template import open_store
from tests.tasks.outputs import Cohort, carry_out, prepared

RNG = np.random.default_rng(3)
AFFINE = np.diag([2.0, 1.5, 3.0, 1.0])


def transform(name: str, **arguments: Any) -> dict[str, Any]:
    return {"_target_": f"monai.transforms.{name}", **arguments}


PLANE = [
    transform("Rotate90", k=1),
    transform("Flip", spatial_axis=0),
    transform("Spacing", pixdim=[0.5, 2.0]),
    transform("Resize", spatial_size=[9, 14]),
]
VOLUME = [
    transform("Rotate90", k=1, spatial_axes=[0, 2]),
    transform("Flip", spatial_axis=0),
    transform("Spacing", pixdim=[1.0, 2.0, 4.0]),
    transform("Orientation", axcodes="RAS"),
    transform("Resize", spatial_size=[9, 14, 6]),
    transform("SpatialCrop", roi_start=[1, 2, 0], roi_end=[7, 9, 5]),
]


def both(path: Path, dims: int, components: list[dict[str, Any]]) -> tuple[Any, Preprocessed]:
    """Prepare the file or folder by MONAI alone, and by us."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = LoadImage(image_only=True, ensure_channel_first=True)(path)
    for component in components:
        theirs = instantiate(component, locate(component, NAMESPACES))(theirs)
    parts = sorted(path.iterdir()) if path.is_dir() else [path]
    decoded = read([part.read_bytes() for part in parts], dims)
    return theirs, Preprocessing(components, "monai")(decoded.pixels, decoded.affine)


@pytest.mark.parametrize("colour", [False, True])
@pytest.mark.parametrize("components", [[], *([one] for one in PLANE), PLANE])
def test_a_picture(tmp_path: Path, colour: bool, components: list[dict[str, Any]]) -> None:
    pixels = RNG.integers(0, 256, (12, 17, 3) if colour else (12, 17)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    theirs, ours = both(tmp_path / "a.png", 2, components)
    np.testing.assert_allclose(ours.network_input, theirs.numpy(), atol=1e-4)


@pytest.mark.parametrize("codes", ["RAS", "LPS", "PIR", "SLA"])
@pytest.mark.parametrize("components", [[], *([one] for one in VOLUME), VOLUME])
def test_a_nifti_in_any_orientation(tmp_path: Path, codes: str, components: list[dict[str, Any]]) -> None:
    stored = nibabel.Nifti1Image(RNG.normal(size=(10, 12, 8)).astype(np.float32), AFFINE)
    turned = stored.as_reoriented(
        nibabel.orientations.ornt_transform(
            nibabel.orientations.axcodes2ornt("RAS"), nibabel.orientations.axcodes2ornt(codes)
        )
    )
    nibabel.save(turned, tmp_path / "a.nii.gz")
    theirs, ours = both(tmp_path / "a.nii.gz", 3, components)
    np.testing.assert_allclose(ours.network_input, theirs.numpy(), atol=1e-4)
    np.testing.assert_allclose(ours.affine, theirs.affine.numpy(), atol=1e-5)


@pytest.mark.parametrize("components", [[], VOLUME])
def test_a_dicom_series(tmp_path: Path, components: list[dict[str, Any]]) -> None:
    for number, part in enumerate(slices()):
        (tmp_path / f"{number}.dcm").write_bytes(part)
    theirs, ours = both(tmp_path, 3, components)
    np.testing.assert_allclose(ours.network_input, theirs.numpy(), atol=1e-3)
    np.testing.assert_allclose(ours.affine, theirs.affine.numpy(), atol=1e-5)


@pytest.mark.parametrize("components", [[], PLANE])
def test_a_dicom_slice(tmp_path: Path, components: list[dict[str, Any]]) -> None:
    (tmp_path / "a.dcm").write_bytes(slices()[2])
    theirs, ours = both(tmp_path / "a.dcm", 2, components)
    np.testing.assert_allclose(ours.network_input, theirs.numpy(), atol=1e-3)
    np.testing.assert_allclose(ours.affine[:, 1:], theirs.affine.numpy()[:, [0, 1, 3]], atol=1e-5)


def slices() -> list[bytes]:
    to_ras = np.array([[0, 0, -1.5, 40], [0, -2.0, 0, 55], [3.0, 0, 0, -30], [0, 0, 0, 1]])
    pixels = RNG.random((6, 10, 12)).astype(np.float32)
    return list(dicom_slices(Phantom(pixels, pixels > 1, to_ras), "a"))


@pytest.mark.parametrize("components", [[], PLANE])
def test_the_axes_differ_by_their_order_alone(components: list[dict[str, Any]]) -> None:
    pixels: NDArray[np.float32] = RNG.normal(size=(1, 12, 12)).astype(np.float32)
    ours = Preprocessing(components, "monai")(pixels, None)
    same = Preprocessing(components)(pixels.swapaxes(1, 2), None)
    np.testing.assert_array_equal(ours.network_input, same.network_input)


def test_the_store_names_the_axes_as_they_are(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", range(4))
    found: dict[str, xr.Dataset] = {}
    for axes in ("zyx", "monai"):
        output = Location(url=str(tmp_path / axes))
        content = cohort.content(output)
        carry_out(content | {"cohort": content["cohort"] | {"axes": axes}}, report=True)
        found[axes] = open_store(output).load()
    rows, columns = found["zyx"], found["monai"]
    assert rows.image.dims == ("image_id", "channel", "y", "x")
    assert columns.image.dims == ("image_id", "channel", "x", "y")
    assert columns.attribution.dims[-2:] == columns["mask"].dims[-2:] == ("x", "y")
    assert [str(axis) for axis in rows.voxel.values] == ["z", "y", "x", "1"]
    assert [str(axis) for axis in columns.voxel.values] == ["z", "x", "y", "1"]
    for name in ("image", "mask"):  # by name the same, whatever the order
        np.testing.assert_array_equal(columns[name].transpose(*rows[name].dims).values, rows[name].values)
    assert not np.allclose(columns.logit, rows.logit)  # the network is asked about another picture


def test_views_are_not_flipped_along_axes_that_are_named_otherwise(tmp_path: Path) -> None:
    cohort = Cohort(tmp_path / "cohort", range(4))
    content = cohort.content(Location(url=str(tmp_path / "out")))
    flipped = {"uncertainty": [{"name": "test_time_augmentation", "samples": 2, "flip": ["x"]}]}
    with pytest.raises(ConfigurationError, match=r"flip names axes as cohort\.axes: zyx"):
        prepared(content | flipped | {"cohort": content["cohort"] | {"axes": "monai"}})
