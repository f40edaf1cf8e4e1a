"""Sources that DICOM objects are made of, and what is asked of these objects."""

import subprocess
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom import dcmread
from pydicom.dataset import Dataset

from tasks.cohort.readers import read
from tasks.export.dicom_objects import Origin
from tasks.export.dicom_source import DicomSource, dicom_source
from tasks.export.parametric_map import parametric_map
from tests.debian import needed
from tests.tasks.readers.test_dicom import encode

STUDY = "1.2.826.0.1.3680043.8.498.1"
MIDDLE = 24_000
NOW = datetime(2026, 3, 4, 5, 6, 7)
GRADCAM = Origin("gradcam for lesion", "by gradcam of layer 4", "DenseNet121", "ab" * 32, NOW)


def identified(data: bytes, **elements: Any) -> bytes:
    """Make a file one of a study, as the standard demands."""
    made = dcmread(BytesIO(data), force=True)
    known = {
        "StudyInstanceUID": STUDY,
        "FrameOfReferenceUID": f"{STUDY}.7",
        "SeriesInstanceUID": f"{STUDY}.8",
        "SpecificCharacterSet": "ISO_IR 100",
        "PatientID": "4711",
        "PatientName": "Müller^Jürgen",
        "PatientBirthDate": "19500203",
        "PatientSex": "M",
        "StudyDate": "20200102",
        "StudyTime": "030405",
        "StudyID": "S1",
        "AccessionNumber": "A1",
    }
    for keyword, value in (known | elements).items():
        if value is None:
            made.pop(keyword, None)
        else:
            setattr(made, keyword, value)
    return encode(made)


def sourced(parts: list[bytes], spatial_dims: int = 3, **which: Any) -> tuple[NDArray[np.float32], DicomSource]:
    """The image as the reader has it, ``(z, y, x)`` with values of both signs, and the source of its files."""
    pixels = read(parts, spatial_dims, **which).pixels[0]
    values = (pixels.reshape(-1, *pixels.shape[-2:]) - MIDDLE) / np.float32(7)
    return values, dicom_source(parts, spatial_dims, **which)


def encoded(made: Dataset) -> bytes:
    sink = BytesIO()
    made.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def errors(made: bytes, folder: Path) -> list[str]:
    """The errors that dciodvfy finds, which knows the standard by itself."""
    dciodvfy = needed("dciodvfy", "dicom3tools")
    (folder / "made.dcm").write_bytes(made)
    done = subprocess.run([dciodvfy, str(folder / "made.dcm")], capture_output=True, text=True, check=False)
    return [line for line in done.stderr.splitlines() if line.startswith("Error")]


def mapped(values: NDArray[np.float32], source: DicomSource, origin: Origin = GRADCAM) -> Dataset:
    return parametric_map(values, source, origin, (-400.0, 400.0))
