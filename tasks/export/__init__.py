"""Export: cases of an output in the formats that other tools open, on the grid of the source.

To add a format, write its class in a file of this room, and name it in `FORMATS`.
"""

from tasks.export.dicom import DicomMap, DicomReport, DicomSegmentation
from tasks.export.format import Format
from tasks.export.nifti import Nifti
from tasks.export.ome_zarr import OmeZarr
from tasks.export.page import Pdf, Png

_ALL = (Nifti(), OmeZarr(), Png(), Pdf(), DicomMap(), DicomSegmentation(), DicomReport())

FORMATS: dict[str, Format] = {format.name: format for format in _ALL}
"""All formats, by the names that `cohortlens export --format` takes."""
