"""Write the demo cohort as a hospital would hand it over: DICOM, NIfTI and PNG files, some of them damaged."""

import csv
import shutil
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
from nibabel import Nifti1Image
from numpy.typing import NDArray
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid

from tasks.demo.phantom import Phantom, phantom

SEED = 7
DAMAGED = 3

_UID_ROOT = "1.2.826.0.1.3680043.10.1561."
_TWELVE_BITS = 4095


def write_cohort(
    folder: Path,
    *,
    images: int,
    spatial_dims: int,
    seed: int = SEED,
    damaged: int = DAMAGED,
    marker: bool = False,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Path:
    """Write `images` readable images with their masks, `damaged` truncated ones, and a manifest; return its path.

    With `marker`, a letter in the corner gives away which images carry a lesion.

    Slices are written in turn as DICOM, NIfTI and PNG; volumes as DICOM series and NIfTI. The same arguments
    always write the same files; what `folder` held before is removed. Masks say where they lie if their images do.
    """
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "masks").mkdir(parents=True)
    writers = [_write_dicom, _write_nifti, _write_png] if spatial_dims == 2 else [_write_series, _write_nifti]
    rows = []
    for index in range(images):
        drawn = phantom(index, spatial_dims=spatial_dims, seed=seed, marker=marker)
        name = f"phantom-{index:05d}"
        uri = writers[index % len(writers)](folder, name, drawn)
        mask = _write_mask(folder / "masks", name, drawn, placed=writers[index % len(writers)] is not _write_png)
        rows.append({"id": name, "uri": uri, "label": drawn.label, "mask": f"masks/{mask}"})
        progress(index + 1, images)
    for index in range(damaged):
        rows.append({"id": f"damaged-{index:05d}", "uri": _write_truncated(folder, index), "label": "", "mask": ""})
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        table = csv.DictWriter(file, ["id", "uri", "label", "mask"])
        table.writeheader()
        table.writerows(rows)
    return manifest


def _write_nifti(folder: Path, name: str, drawn: Phantom) -> str:
    nibabel.save(_nifti(drawn.pixels, drawn), folder / f"{name}.nii.gz")
    return f"{name}.nii.gz"


def _nifti(values: NDArray[np.generic], drawn: Phantom) -> Nifti1Image:
    volume = values if values.ndim == 3 else values[None]
    return Nifti1Image(volume.transpose(2, 1, 0), drawn.affine[:, [2, 1, 0, 3]])


def _write_png(folder: Path, name: str, drawn: Phantom) -> str:
    Image.fromarray((drawn.pixels * 255).round().astype(np.uint8)).save(folder / f"{name}.png")
    return f"{name}.png"


def _write_mask(folder: Path, name: str, drawn: Phantom, *, placed: bool) -> str:
    if not placed:
        Image.fromarray(drawn.lesion.astype(np.uint8) * 255).save(folder / f"{name}.png")
        return f"{name}.png"
    nibabel.save(_nifti(drawn.lesion.astype(np.uint8), drawn), folder / f"{name}.nii.gz")
    return f"{name}.nii.gz"


def _write_dicom(folder: Path, name: str, drawn: Phantom) -> str:
    (folder / f"{name}.dcm").write_bytes(next(dicom_slices(drawn, name)))
    return f"{name}.dcm"


def _write_series(folder: Path, name: str, drawn: Phantom) -> str:
    series = folder / name
    series.mkdir()
    slices = list(dicom_slices(drawn, name))
    # Names in another order than positions, as archives export them.
    for number, position in enumerate(np.random.default_rng(len(slices)).permutation(len(slices))):
        (series / f"{number:04d}.dcm").write_bytes(slices[position])
    return f"{name}/"


def dicom_slices(drawn: Phantom, name: str) -> Iterator[bytes]:
    """Encode each axial slice as an MR image of 12 bits."""
    volume = drawn.pixels if drawn.pixels.ndim == 3 else drawn.pixels[None]
    to_lps = np.diag([-1.0, -1.0, 1.0, 1.0]) @ drawn.affine
    step_z, step_y, step_x, origin = to_lps[:3].T
    spacing_y, spacing_x = np.linalg.norm(step_y), np.linalg.norm(step_x)
    for number, pixels in enumerate(volume):
        dataset = Dataset()
        dataset.SOPClassUID = MRImageStorage
        dataset.SOPInstanceUID = generate_uid(_UID_ROOT, [name, str(number)])
        dataset.SeriesInstanceUID = generate_uid(_UID_ROOT, [name])
        dataset.StudyInstanceUID = generate_uid(_UID_ROOT, [name, "study"])
        dataset.FrameOfReferenceUID = generate_uid(_UID_ROOT, [name, "frame of reference"])
        dataset.PatientID, dataset.PatientName = name, "PHANTOM"
        dataset.Modality = "MR"
        dataset.InstanceNumber = number + 1
        dataset.ImagePositionPatient = [round(float(value), 6) for value in origin + number * step_z]
        dataset.ImageOrientationPatient = [*(step_x / spacing_x), *(step_y / spacing_y)]
        dataset.PixelSpacing = [float(spacing_y), float(spacing_x)]
        dataset.SliceThickness = float(np.linalg.norm(step_z))
        dataset.Rows, dataset.Columns = pixels.shape
        dataset.SamplesPerPixel, dataset.PhotometricInterpretation = 1, "MONOCHROME2"
        dataset.BitsAllocated, dataset.BitsStored, dataset.HighBit, dataset.PixelRepresentation = 16, 12, 11, 0
        dataset.RescaleIntercept, dataset.RescaleSlope = 0, 1
        dataset.PixelData = (pixels * _TWELVE_BITS).round().astype("<u2").tobytes()
        dataset.file_meta = FileMetaDataset()
        dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        sink = BytesIO()
        dataset.save_as(sink, enforce_file_format=True)
        yield sink.getvalue()


def _write_truncated(folder: Path, index: int) -> str:
    kinds = sorted(path for path in folder.iterdir() if path.suffix in (".dcm", ".gz", ".png"))
    source = kinds[index * max(1, len(kinds) // DAMAGED) % len(kinds)]
    name = f"damaged-{index:05d}{''.join(source.suffixes)}"
    data = source.read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    return name
