"""A cohort whose every text holds a marker, and a search that finds the marker in whatever a run wrote."""

import html
import sqlite3
from base64 import b64encode
from collections.abc import Callable, Iterator
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pyarrow.parquet as pq
import xarray as xr
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo
from pydicom.datadict import DicomDictionary
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage

TEXT = "QxMarkerPhi"
NUMBERS = "90817263544536271809"
DATE = "19170203"

_TEXT_VRS = {"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"}
_STRUCTURAL = {"SpecificCharacterSet", "SOPClassUID", "SeriesInstanceUID", "ConcatenationUID"}


def planted(pixels: NDArray[np.uint16], series: int = 0, **elements: object) -> Dataset:
    """A DICOM image with a marker in every attribute that can hold one, private and nested, and in its preamble."""
    made = Dataset()
    for tag, (vr, _, _, is_retired, keyword) in DicomDictionary.items():
        group = tag >> 16
        if is_retired or not keyword or keyword in _STRUCTURAL or group in (0, 2, 4, 0x28) or group >= 0x5000:
            continue
        if vr in _TEXT_VRS:
            setattr(made, keyword, TEXT)
        elif vr == "DA":
            setattr(made, keyword, DATE)
        elif vr == "UI":
            setattr(made, keyword, f"1.2.{NUMBERS}")
    assert len(made) > 1000, len(made)
    nested = Dataset()
    nested.PatientName, nested.CodeValue = TEXT, TEXT
    nested.OtherPatientIDsSequence = [Dataset()]
    nested.OtherPatientIDsSequence[0].PatientID = TEXT
    made.RequestAttributesSequence = [nested]
    private = made.private_block(0x0011, TEXT, create=True)
    private.add_new(1, "LO", TEXT)
    private.add_new(2, "UN", TEXT.encode("utf-16-le"))
    private.add_new(3, "SQ", [nested])
    made.SOPClassUID, made.SeriesInstanceUID = MRImageStorage, f"1.2.{NUMBERS}.{series}"
    made.Rows, made.Columns = pixels.shape
    made.SamplesPerPixel, made.PhotometricInterpretation = 1, "MONOCHROME2"
    made.BitsAllocated, made.BitsStored, made.HighBit, made.PixelRepresentation = 16, 12, 11, 0
    made.ImageOrientationPatient, made.PixelSpacing, made.SliceThickness = [1, 0, 0, 0, 1, 0], [1, 1], 1
    made.ImagePositionPatient = [0, 0, 0]
    made.PixelData = pixels.tobytes()
    for keyword, value in elements.items():
        setattr(made, keyword, value)
    return made


def encode(made: Dataset) -> bytes:
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.file_meta.ImplementationVersionName = TEXT
    made.file_meta.SourceApplicationEntityTitle = TEXT
    made.file_meta.PrivateInformationCreatorUID = f"1.2.{NUMBERS}"
    made.file_meta.PrivateInformation = TEXT.encode() + b"\0"
    made.preamble = (TEXT.encode() * 20)[:128]
    sink = BytesIO()
    made.save_as(sink, enforce_file_format=True)
    return sink.getvalue()


def pictures(count: int, size: int = 16) -> Iterator[NDArray[np.uint16]]:
    generator = np.random.default_rng(3)
    return (generator.integers(0, 4096, (size, size), dtype=np.uint16) for _ in range(count))


def bad_files() -> dict[str, bytes]:
    """Files that are quarantined, each for a reason of its own, and each with the marker in it."""
    (pixels,) = pictures(1)
    whole = encode(planted(pixels))
    text = Dataset()
    text.SOPClassUID, text.PatientName, text.SOPInstanceUID = f"1.2.{NUMBERS}", TEXT, "1.2.3"
    odd = planted(pixels, PhotometricInterpretation=TEXT.upper(), Rows=9999)
    wrong = planted(pixels)
    wrong.file_meta = FileMetaDataset()
    volume = nibabel.Nifti1Image(pixels.T.astype(np.complex64), np.eye(4))
    volume.header["descrip"] = volume.header["db_name"] = TEXT.encode()
    nifti = nibabel.Nifti1Image(pixels.T.astype(np.float32), np.eye(4))
    nifti.header["descrip"] = TEXT.encode()
    nifti.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TEXT.encode()))
    named = np.zeros(3, [(TEXT, "f4"), (f"{TEXT}2", "f4")])
    info = PngInfo()
    info.add_text(TEXT, TEXT)
    grey = Image.fromarray((pixels // 16).astype(np.uint8))
    files = {
        "text.txt": TEXT.encode() * 50,
        "cut.dcm": whole[:3000],
        "cut-pixels.dcm": whole[:-50],
        "no-pixels.dcm": encode(text),
        "odd.dcm": encode(odd),
        "nan.dcm": encode(planted(pixels, RescaleSlope=1, RescaleIntercept=0, ModalityLUTSequence=[Dataset()])),
        "complex.nii": volume.to_bytes(),
        "cut.nii": nifti.to_bytes()[:500],
        "damaged.nii.gz": b"\x1f\x8b\x08" + TEXT.encode() * 9,
        "named.npy": _saved(lambda sink: np.save(sink, named)),
        "infinite.npy": _saved(lambda sink: np.save(sink, np.full((16, 16), np.inf))),
        "small.npy": _saved(lambda sink: np.save(sink, np.ones((3, 3)))),
        "header.npy": b"\x93NUMPY\x01\x00\x40\x00{'" + TEXT.encode() * 4,
        "cut.png": _saved(lambda sink: grey.save(sink, "PNG", pnginfo=info))[:150],
        "cut.tif": _saved(lambda sink: grey.save(sink, "TIFF", description=TEXT))[:-100],
        "cut.jpg": _saved(lambda sink: grey.save(sink, "JPEG", comment=TEXT))[:120],
    }
    return files


def _saved(save: Callable[[BytesIO], object]) -> bytes:
    sink = BytesIO()
    save(sink)
    return sink.getvalue()


def leaks(folder: Path, **more: str) -> list[str]:
    """Name the files below a folder, and the other texts, that hold a marker in their names or contents."""
    found = [name for name, text in more.items() if _holds(text.encode())]
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if _holds(name.encode()):
            found.append(f"the name {name}")
        if path.is_file() and any(_holds(data) for data in _layers(path)):
            found.append(name)
        if path.suffix == ".zarr" and _holds(_stored(path)):
            found.append(name)
    return found


def _holds(data: bytes) -> bool:
    low = data.lower()
    for marker in (TEXT.lower(), NUMBERS, DATE):
        if any(marker.encode(code) in low for code in ("utf-8", "utf-16-le", "utf-16-be")):
            return True
    # The text may be encoded in base64, at any offset; its case matters then.
    return any(b64encode(b"\0" * shift + TEXT.encode())[4:-4] in data for shift in range(3))


def _layers(path: Path) -> Iterator[bytes]:
    """A file as it is, and as it is once unpacked."""
    data = path.read_bytes()
    yield data
    if path.suffix == ".html":
        yield html.unescape(data.decode()).encode()
    if path.suffix == ".parquet":
        parquet = pq.ParquetFile(path)
        yield repr(parquet.read().to_pylist()).encode()
        yield repr(parquet.metadata.metadata).encode()
    if data.startswith(b"SQLite format 3"):
        with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as base:
            for (table,) in base.execute("SELECT name FROM sqlite_master WHERE type = 'table'").fetchall():
                yield repr(base.execute(f'SELECT * FROM "{table}"').fetchall()).encode()


def _stored(path: Path) -> bytes:
    dataset = xr.open_zarr(path).load()
    values = b"".join(
        variable.values.tobytes() if variable.dtype.kind in "biuf" else repr(variable.values.tolist()).encode()
        for variable in dataset.variables.values()
    )
    return values + repr(dataset.attrs).encode() + repr([v.attrs for v in dataset.variables.values()]).encode()
