"""Slides as DICOM: VL Whole Slide Microscopy Images, with one instance or several for each level."""

import logging
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from pydicom import Dataset, dcmread
from pydicom.uid import (
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000TransferSyntaxes,
    JPEGBaseline8Bit,
    VLWholeSlideMicroscopyImageStorage,
)

from tasks.cohort.modalities import MODALITIES
from tasks.cohort.readers.codestreams import check_codestream
from tasks.cohort.reading import Declared, NoImage, Unreadable, check_length
from tasks.cohort.slides.slide import Level, Slide, side_of_pixels
from tasks.storage.ranges import RangedFile

logging.getLogger("wsidicom").setLevel(logging.CRITICAL + 1)  # it quotes files

_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)
_SYNTAXES = (*_NATIVE, JPEGBaseline8Bit, *JPEG2000TransferSyntaxes)
_LONGEST_HEADER = 2**28
_MOST_FRAMES = 2**22
_TAGS = (
    "SOPClassUID",
    "ImageType",
    "Modality",
    "PatientID",
    "IssuerOfPatientID",
    "SeriesInstanceUID",
    "NumberOfFrames",
    "Rows",
    "Columns",
    "SamplesPerPixel",
    "BitsAllocated",
)


class DicomSlide(Slide):
    """The levels of one series; its label, overview and thumbnail are left out."""

    def __init__(self, files: Sequence[RangedFile]) -> None:
        from upath import UPath
        from wsidicom import WsiDicom
        from wsidicom.file import WsiDicomFileSource
        from wsidicom.file.io.wsidicom_io import WsiDicomReadIO
        from wsidicom.geometry import Point

        volumes = [file for file in files if _is_level(_header(file))]
        if not volumes:
            raise Unreadable(f"{len(files)} files of a slide, and none holds a level (ImageType VOLUME): copy them all")
        nowhere = UPath("memory://slide")  # a path is what wsidicom names in errors
        source = WsiDicomFileSource([WsiDicomReadIO(file, nowhere) for file in volumes])
        if len(source.readers) != len(volumes):  # it leaves out what it cannot read
            raise Unreadable(f"{len(volumes) - len(source.readers)} of {len(volumes)} levels of the slide are damaged")
        opened = WsiDicom(source)
        if len(opened.pyramids) != 1:
            raise Unreadable(f"a slide of {len(opened.pyramids)} pyramids: name the files of one")
        self._point = Point
        self._images = [level.default_instance.image_data for level in opened.pyramids[0]]
        found = [(image.image_size, image.tile_size) for image in self._images]
        spacing = self._images[0].pixel_spacing
        super().__init__(
            tuple(Level(size.height, size.width, tile.height, tile.width) for size, tile in found),
            None if spacing is None else side_of_pixels(1000 * spacing.width, 1000 * spacing.height),
        )

    def _tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        of, image = self.levels[level], self._images[level]
        frame = image.get_encoded_tile(self._point(column, row), image.default_z, image.default_path)
        if image.transfer_syntax in _NATIVE:
            check_length(3 * of.tile_height * of.tile_width, len(frame))
        else:
            check_codestream(frame, of.tile_height, of.tile_width, 3)
        return np.asarray(image.decoder.decode(frame), np.uint8)


def declared(file: RangedFile) -> Declared:
    """Read the header of one instance of a slide."""
    header = _header(file)
    modality = str(header.get("Modality", ""))
    return Declared(
        values=0,
        series=str(header.get("SeriesInstanceUID", "")),
        modality=modality if modality in MODALITIES else "",
        patient=str(header.get("PatientID", "") or ""),
        issuer=str(header.get("IssuerOfPatientID", "") or ""),
    )


def _header(file: RangedFile) -> Dataset:
    """Read what is checked before wsidicom, which believes a header, is given the file."""
    file.seek(0)
    header = dcmread(file, stop_before_pixels=True, specific_tags=list(_TAGS))
    if header.get("SOPClassUID") != VLWholeSlideMicroscopyImageStorage:
        raise NoImage("a DICOM object that is no whole slide (VL Whole Slide Microscopy Image): leave it out")
    syntax = header.file_meta.TransferSyntaxUID
    if syntax not in _SYNTAXES:
        raise Unreadable("a slide in a transfer syntax that is not read: convert it to JPEG baseline or JPEG 2000")
    if file.tell() > _LONGEST_HEADER:
        raise Unreadable(f"a header of {file.tell()} bytes: a slide's has at most {_LONGEST_HEADER}")
    if not _is_level(header):
        return header
    if (header.SamplesPerPixel, header.BitsAllocated) != (3, 8):
        raise Unreadable(
            f"a slide of {int(header.SamplesPerPixel)} samples of {int(header.BitsAllocated)} bits: slides are read in "
            "RGB of 8 bits"
        )
    frames = int(header.get("NumberOfFrames", 1))
    if not 1 <= frames <= _MOST_FRAMES:
        raise Unreadable(f"the slide declares {frames} frames: 1 to {_MOST_FRAMES} are read")
    if syntax in _NATIVE:
        check_length(3 * frames * header.Rows * header.Columns, file.raw.size)
    return header


def _is_level(header: Dataset) -> bool:
    kinds = list(header.get("ImageType") or [])
    return len(kinds) > 2 and kinds[2] == "VOLUME"
