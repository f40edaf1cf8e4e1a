"""Images and masks on their way to the network: what is set aside, with which reason, and what is flagged."""

from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
import xarray as xr
from PIL import Image
from pydicom.uid import ExplicitVRLittleEndian

from models.errors import ConfigurationError
from models.flags import ImageFlag
from tasks.storage.location import Location
from tasks.store.commit import Commit
from tasks.store.template import EXPLAINED, open_store
from tasks.work.finish import Summary
from tests.tasks.outputs import NETWORK, carry_out, promised, squares_model
from tests.tasks.readers.test_dicom import dataset, encode

RNG = np.random.default_rng(11)
SQUARE = np.zeros((16, 16), np.uint8)
SQUARE[3:8, 5:12] = 1


def grey() -> np.ndarray[Any, np.dtype[np.uint8]]:
    return RNG.integers(0, 256, (16, 16)).astype(np.uint8)


class Folder:
    """A cohort table over files of any kind, and what a run makes of it."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.output = folder / "cohort", Location(url=str(folder / "output"))
        self.folder.mkdir()
        self.model = squares_model(folder, ("a", "b"), NETWORK)
        self.rows = ["uri,id,mask"]

    def add(self, name: str, image: np.ndarray[Any, Any], mask: str = "") -> None:
        path = self.folder / name
        if path.suffix == ".png":
            Image.fromarray(image).save(path)
        elif path.suffix == ".nii":
            nibabel.save(nibabel.Nifti1Image(image.T, np.diag([2.0, 2, 2, 1])), path)
        self.rows.append(f"{name},{path.stem},{mask}")

    def explained(self, **cohort: Any) -> tuple[xr.Dataset, dict[str, str | None]]:
        """Run; the store, and the reasons by id."""
        self.run(**cohort)
        _, entries = promised(self.output)
        return open_store(self.output).load(), {entry.id: entry.reason for entry in entries}

    def run(self, **cohort: Any) -> Summary:
        (self.folder / "manifest.csv").write_text("\n".join(self.rows) + "\n")
        source = {"source": str(self.folder / "manifest.csv"), "identifiers": "as given", "allowed_failures": 1.0}
        return carry_out(
            {
                "cohort": source | cohort,
                "model": self.model,
                "explainers": ["saliency"],
                "output": self.output.model_dump(),
            }
        )


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_mask_whose_place_cannot_be_checked_is_flagged(folder: Folder) -> None:
    Image.fromarray(255 * SQUARE).save(folder.folder / "mask.png")
    nibabel.save(nibabel.Nifti1Image(SQUARE.T, np.diag([2.0, 2, 2, 1])), folder.folder / "mask.nii")
    for name, mask in (("a.png", "mask.png"), ("b.png", "mask.nii"), ("c.nii", "mask.png"), ("d.nii", "mask.nii")):
        folder.add(name, grey(), mask)
    ds, _ = folder.explained()
    assert (ds.status == EXPLAINED).all()
    np.testing.assert_array_equal(ds["mask"].values, np.stack([SQUARE] * 4))
    unplaced = (ds.image_flags.values & ImageFlag.MASK_UNPLACED) != 0
    assert dict(zip(ds.image_id.values, unplaced, strict=True)) == {"a": False, "b": True, "c": True, "d": False}
    assert "mask_unplaced" in ds.image_flags.attrs["flag_meanings"]


def test_the_rule_for_masks_is_a_promise_of_the_output(folder: Folder) -> None:
    soft = np.where(SQUARE, 200, 20).astype(np.uint8)
    Image.fromarray(soft).save(folder.folder / "soft.png")
    for number in range(3):
        folder.add(f"{number}.png", grey(), "soft.png")
    ds, _ = folder.explained(mask={"threshold": 128})
    np.testing.assert_array_equal(ds["mask"].values, np.stack([SQUARE] * 3))
    assert folder.run(mask={"threshold": 128}).pending == 0
    with pytest.raises(ConfigurationError, match=r"cohort\.mask: .*128.* → .*labels.*\[200\]"):
        folder.run(mask={"labels": [200]})


def test_a_mask_that_says_nothing_clear_sets_its_image_aside(folder: Folder) -> None:
    Image.fromarray(np.where(SQUARE, 200, 20).astype(np.uint8)).save(folder.folder / "soft.png")
    folder.add("soft.png", grey(), "soft.png")
    folder.add("other.png", grey())
    ds, _ = folder.explained()
    status = dict(zip(ds.image_id.values, ds.status.values == EXPLAINED, strict=True))
    assert status == {"soft": False, "other": True}


def test_colour_is_read_as_grey_when_one_says_so(folder: Folder) -> None:
    values, coloured = grey(), RNG.integers(0, 256, (16, 16, 3)).astype(np.uint8)
    folder.add("grey.png", values)
    folder.add("stored.png", np.dstack([values] * 3))
    folder.add("colour.png", coloured)
    rgb = dataset(np.dstack([values] * 3), 8, SamplesPerPixel=3, PhotometricInterpretation="RGB", PlanarConfiguration=0)
    (folder.folder / "dicom").write_bytes(encode(rgb, ExplicitVRLittleEndian))
    folder.add("dicom", values)
    ds, _ = folder.explained(color="grey")
    images = dict(zip(ds.image_id.values, ds.image.values[:, 0], strict=True))
    for name in ("grey", "stored", "dicom"):
        np.testing.assert_array_equal(images[name], values)
    luminance = np.asarray(Image.fromarray(coloured).convert("L"))
    np.testing.assert_allclose(images["colour"], luminance, atol=0.51)  # Pillow rounds


def test_a_picture_with_other_channels_is_told_of_channels(folder: Folder) -> None:
    folder.add("colour.png", np.dstack([grey()] * 3))
    with pytest.raises(
        ConfigurationError, match=r"3 channels after .* takes 1 \(model\.channels\): .*cohort\.color: grey$"
    ):
        folder.run()


def test_what_fails_on_one_image_is_its_reason_alone(folder: Folder) -> None:
    coronal = np.array(
        [[2.0, 0, 0, 0], [0, 0, 2, 0], [0, 2, 0, 0], [0, 0, 0, 1]]
    )  # MONAI takes any plane for an axial one
    for number in range(3):
        folder.add(f"{number}.nii", grey())
    nibabel.save(nibabel.Nifti1Image(grey(), coronal), folder.folder / "1.nii")
    ds, _ = folder.explained(preprocessing=[{"_target_": "monai.transforms.Spacing", "pixdim": [2.0, 2.0]}])
    assert list(ds.status.values == EXPLAINED) == [True, False, True]
    (commit,) = Commit.read(folder.output, [0]).values()
    assert commit.reasons == {"1": "preprocessing of shape (1, 16, 16): Spacing fails with LinAlgError"}
