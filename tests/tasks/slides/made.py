"""Small slides: pyramids as TIFF, SVS and DICOM."""

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom import Dataset
from pydicom.dataset import FileMetaDataset
from pydicom.encaps import encapsulate
from pydicom.uid import UID, ExplicitVRLittleEndian, JPEGBaseline8Bit, VLWholeSlideMicroscopyImageStorage, generate_uid

from tasks.storage.location import Location
from tasks.storage.ranges import RangedFile

Pixels = NDArray[np.uint8]

TISSUE = (180, 60, 120)
GLASS = 240


def glass(height: int, width: int) -> Pixels:
    return np.full((height, width, 3), GLASS, np.uint8)


def with_tissue(top: int, left: int, height: int, width: int, of: tuple[int, int] = (256, 384)) -> Pixels:
    """Make a slide with one rectangle of tissue."""
    pixels = glass(*of)
    pixels[top : top + height, left : left + width] = TISSUE
    return pixels


def file_of(path: Path) -> RangedFile:
    return Location(url=str(path)).open()


def levels_of(pixels: Pixels, count: int) -> list[Pixels]:
    return [np.ascontiguousarray(pixels[:: 2**level, :: 2**level]) for level in range(count)]


def write_tiff(path: Path, pixels: Pixels, levels: int = 2, microns: float | None = 0.5, **how: Any) -> Path:
    """Write a pyramid of tiles of 64 x 64, with the resolution in tags; of OME-TIFF, in its XML."""
    ome = how.pop("ome", False)
    own = {"tile": (64, 64), "photometric": "rgb"} | how
    with tifffile.TiffWriter(path, ome=ome) as file:
        for number, level in enumerate(levels_of(pixels, levels)):
            place: dict[str, Any] = {"subfiletype": 1} if number else {"subifds": levels - 1}
            if microns and ome and not number:
                place["metadata"] = {"axes": "YXS", "PhysicalSizeX": microns, "PhysicalSizeY": microns}
            elif microns and not ome:
                place |= {"resolution": (1e4 / microns / 2**number,) * 2, "resolutionunit": "CENTIMETER"}
            file.write(level, **place, **own)
    return path


def write_svs(path: Path, pixels: Pixels, hidden: Pixels) -> Path:
    """Write a slide as Aperio's scanners do: base, thumbnail, a level, label and macro, the last two `hidden`."""
    about = "Aperio Image Library v11.2.1\r\n384x256 [0,0 384x256] (64x64) J2K/YUV16 Q=30|AppMag = 20|MPP = 0.4990"
    fine, coarse = levels_of(pixels, 2)
    with tifffile.TiffWriter(path) as file:
        tiled = {"tile": (64, 64), "photometric": "rgb", "metadata": None}
        file.write(fine, description=about, **tiled)
        file.write(hidden, photometric="rgb", metadata=None, description="Aperio Image Library v11.2.1\r\nthumbnail")
        file.write(coarse, description="Aperio Image Library v11.2.1\r\nlevel", **tiled)
        for name, kind in (("label", 1), ("macro", 9)):
            about = f"Aperio Image Library v11.2.1\r\n{name} 64x64"
            file.write(hidden, photometric="rgb", metadata=None, description=about, subfiletype=kind)
    return path


def write_dicom(folder: Path, pixels: Pixels, levels: int = 2, *, jpeg: bool = False, **of: Any) -> list[Path]:
    """Write a series: an instance a level, and a label that shows a name."""
    folder.mkdir(exist_ok=True)
    series = generate_uid()
    paths = []
    for number, level in enumerate(levels_of(pixels, levels)):
        paths.append(folder / f"{number}.dcm")
        _instance(level, 0.0005 * 2**number, "VOLUME", series, jpeg, of).save_as(paths[-1], enforce_file_format=True)
    paths.append(folder / "label.dcm")
    _instance(glass(64, 64), 0.01, "LABEL", series, jpeg, of).save_as(paths[-1], enforce_file_format=True)
    return paths


def _instance(
    pixels: Pixels, spacing: float, kind: str, series: UID, jpeg: bool, of: dict[str, Any], tile: int = 64
) -> Dataset:
    made = Dataset()
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = JPEGBaseline8Bit if jpeg else ExplicitVRLittleEndian
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = VLWholeSlideMicroscopyImageStorage
    made.SOPInstanceUID = made.file_meta.MediaStorageSOPInstanceUID = generate_uid()
    made.ImageType = ["ORIGINAL", "PRIMARY", kind, "NONE"]
    made.Modality, made.PatientID, made.PatientName = "SM", "Doe-1", "Doe^John"
    made.StudyInstanceUID = made.SeriesInstanceUID = made.FrameOfReferenceUID = series
    made.TotalPixelMatrixRows, made.TotalPixelMatrixColumns = pixels.shape[:2]
    made.TotalPixelMatrixFocalPlanes = made.NumberOfOpticalPaths = 1
    made.Rows = made.Columns = tile
    made.SamplesPerPixel, made.PlanarConfiguration, made.PixelRepresentation = 3, 0, 0
    made.BitsAllocated, made.BitsStored, made.HighBit = 8, 8, 7
    made.PhotometricInterpretation = "YBR_FULL_422" if jpeg else "RGB"
    made.DimensionOrganizationType, made.BurnedInAnnotation = "TILED_FULL", "NO"
    made.LossyImageCompression = "01" if jpeg else "00"
    made.ImagedVolumeHeight, made.ImagedVolumeWidth = (side * spacing for side in pixels.shape[:2])
    made.ImagedVolumeDepth = 0.001
    made.ImageOrientationSlide = [0, 1, 0, 1, 0, 0]
    made.TotalPixelMatrixOriginSequence = [_item(XOffsetInSlideCoordinateSystem=0, YOffsetInSlideCoordinateSystem=0)]
    made.OpticalPathSequence = [_item(OpticalPathIdentifier="1")]
    measures = [_item(PixelSpacing=[spacing, spacing], SliceThickness=0.001)]
    frame_type = [_item(FrameType=made.ImageType)]
    made.SharedFunctionalGroupsSequence = [
        _item(PixelMeasuresSequence=measures, WholeSlideMicroscopyImageFrameTypeSequence=frame_type)
    ]
    made.FocusMethod, made.ExtendedDepthOfField = "AUTO", "NO"
    frames = _frames(pixels, tile)
    made.NumberOfFrames = len(frames)
    made.PixelData = encapsulate([as_jpeg(frame) for frame in frames]) if jpeg else b"".join(map(bytes, frames))
    made["PixelData"].VR = "OB"
    for name, value in of.items():
        setattr(made, name, value)
    return made


def _item(**values: Any) -> Dataset:
    item = Dataset()
    for name, value in values.items():
        setattr(item, name, value)
    return item


def _frames(pixels: Pixels, tile: int) -> Sequence[Pixels]:
    rows, columns = (-(-side // tile) for side in pixels.shape[:2])
    whole = np.full((rows * tile, columns * tile, 3), 255, np.uint8)
    whole[: pixels.shape[0], : pixels.shape[1]] = pixels
    cells = whole.reshape(rows, tile, columns, tile, 3).swapaxes(1, 2).reshape(-1, tile, tile, 3)
    return [np.ascontiguousarray(cell) for cell in cells]


def as_jpeg(pixels: Pixels) -> bytes:
    sink = BytesIO()
    Image.fromarray(pixels).save(sink, "jpeg", quality=95)
    return sink.getvalue()
