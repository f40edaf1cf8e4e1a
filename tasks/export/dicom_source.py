"""The DICOM objects that an image was read from: what they say of the patient, and where its planes lie.

This module sees what the reader saw, so that the planes of a map are in the order of the image's.
"""

from collections.abc import Iterator, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.uid import SecondaryCaptureImageStorage
from pydicom.valuerep import DA, TM

from tasks.cohort.readers.dicom_elements import first_item
from tasks.cohort.readers.dicom_frames import wanted
from tasks.cohort.readers.dicom_parsing import begins_dicom, header_of
from tasks.cohort.readers.dicom_planes import Plane, arranged, plane_columns, slice_thickness
from tasks.cohort.readers.dicom_segments import is_segmentation
from tasks.cohort.readers.dicom_series import check_one_volume, part_of
from tasks.cohort.readers.dicom_stored import frame_count
from tasks.cohort.reading import Request
from tasks.export.format import CannotExport

_IDENTIFIERS = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
_PATIENT = ("PatientID", "PatientName", "PatientBirthDate", "PatientSex")
_STUDY = ("AccessionNumber", "StudyID", "StudyDate", "StudyTime", "ReferringPhysicianName")
_FORMS = {"PatientBirthDate": DA, "StudyDate": DA, "StudyTime": TM}
_SEXES = ("M", "F", "O")
_OF_PLACES = ("NumberOfFrames", "ImagePositionPatient", "ImageOrientationPatient", "FrameOfReferenceUID")

_GROUPS = (0x0008, 0x0010, 0x0012, 0x0020, 0x0028, 0x0040)
"""The groups of identification, patient, clinical trial, place, pixels, and specimen."""

_UNREAD = np.zeros(0, np.float32)


@dataclass(frozen=True)
class SourcePlane(Plane):
    """A plane of the source.

    Attributes
    ----------
    header
        All that the object that holds it says beside its pixels.
    frame
        The number of its frame there, counted from 1; None where the object has one frame.
    thickness
        In mm; None if the object does not say.
    """

    header: Dataset
    frame: int | None
    thickness: float | None

    @property
    def reference(self) -> Dataset:
        """The plane as other objects refer to it."""
        found = Dataset()
        found.ReferencedSOPClassUID = self.header.SOPClassUID
        found.ReferencedSOPInstanceUID = self.header.SOPInstanceUID
        if self.frame is not None:
            found.ReferencedFrameNumber = self.frame
        return found


@dataclass(frozen=True)
class DicomSource:
    """The planes of an image, in the order in which it has them along z, and the affine from (z, y, x) to RAS mm."""

    planes: tuple[SourcePlane, ...]
    affine: NDArray[np.float64] | None

    @property
    def headers(self) -> tuple[Dataset, ...]:
        """All that the objects say beside their pixels; each object once."""
        return tuple({id(plane.header): plane.header for plane in self.planes}.values())

    @property
    def shape(self) -> tuple[int, int, int]:
        first = self.headers[0]
        return len(self.planes), int(first.Rows), int(first.Columns)

    @property
    def is_placed(self) -> bool:
        """Whether planes lie somewhere in a frame of reference, and not only on top of their source."""
        return bool(self.headers[0].get("FrameOfReferenceUID")) and self.affine is not None

    def evidence(self) -> list[Dataset]:
        """The headers as highdicom takes what a report is about."""
        return [_completed(header) for header in self.headers]

    def stand_ins(self) -> list[Dataset]:
        """Make the header of a single frame for each plane, with its number from 0 for a UID.

        highdicom looks for geometry in another place in each kind of object, trusts distances that these merely state,
        and knows no frames but those of enhanced objects. It is given what the reader has found instead.
        """
        return [*self._stand_ins()]

    def _stand_ins(self) -> Iterator[Dataset]:
        common = _completed(self.headers[0])
        common.SOPClassUID = SecondaryCaptureImageStorage  # which may lie anywhere, or nowhere
        for keyword in _OF_PLACES:
            if keyword in common:
                del common[keyword]
        for number, plane in enumerate(self.planes):
            made = _copied(common)
            made.SOPInstanceUID = f"1.{number}"
            if self.is_placed:
                _place(made, plane.columns, self)
            yield made


def dicom_source(parts: Sequence[bytes], spatial_dims: int, frame: int | None = None) -> DicomSource:
    """Read the headers of an image's files, and put its planes into the order that the reader gives them.

    Parameters
    ----------
    parts
        The image's file, or the files of its series, in any order.
    spatial_dims, frame
        As in `tasks.cohort.reading.Request`.

    Raises
    ------
    CannotExport
        If a file is not DICOM, or lacks what other objects refer to it by.
    Unreadable
        If the files make no one volume.
    """
    if not all(map(begins_dicom, parts)):
        raise CannotExport("its source is not DICOM, and DICOM objects refer to DICOM alone: export it as nifti")
    headers = [header_of(part).dataset for part in dict.fromkeys(parts)]
    for header in headers:
        _check_identified(header)
    check_one_volume([part_of(header) for header in headers])
    request = Request(spatial_dims, frame=frame, as_channels=True)  # a volume of one channel is one group of frames
    planes = [plane for header in headers for plane in _planes(header, request)]
    ordered, affine = arranged(planes, len(headers))
    found = DicomSource(tuple(ordered), affine)
    if len(ordered) > 1 and not found.is_placed:
        lacking = "FrameOfReferenceUID" if affine is not None else "the positions of its planes"
        raise CannotExport(f"its source lacks {lacking}, without which a volume lies nowhere: export it as nifti")
    return found


def _check_identified(header: Dataset) -> None:
    missing = [keyword for keyword in _IDENTIFIERS if not header.get(keyword)]
    if missing:
        raise CannotExport(f"its source lacks {', '.join(missing)}, by which objects are known: export it as nifti")
    if is_segmentation(header):
        raise CannotExport("its source is a segmentation, whose frames are no planes of an image: export it as nifti")


def _planes(header: Dataset, request: Request) -> Iterator[SourcePlane]:
    groups, count = wanted(header, request), frame_count(header)
    shared = first_item(header, "SharedFunctionalGroupsSequence") or Dataset()
    by_frame = header.get("PerFrameFunctionalGroupsSequence") or [Dataset()] * count
    for number in groups[len(groups) // 2]:  # an image whose channels are frames lies where its middle frame does
        own = by_frame[number]
        columns, thickness = plane_columns(header, shared, own, number), slice_thickness(header, shared, own)
        yield SourcePlane(_UNREAD, columns, header, number + 1 if count > 1 else None, thickness)


def _completed(header: Dataset) -> Dataset:
    """Copy a header, with the elements that highdicom wants to be there, and without values that it refuses."""
    made = _copied(header)
    for keyword in (*_PATIENT, *_STUDY):
        setattr(made, keyword, _valid(keyword, header.get(keyword)))
    return made


def _copied(header: Dataset) -> Dataset:
    """Copy what may be of the patient or the study, so that a change does not reach the elements of the header."""
    made = Dataset()
    for group in _GROUPS:
        for element in header.group_dataset(group):
            made.add(copy(element))
    return made


def _valid(keyword: str, value: Any) -> Any:
    if keyword == "PatientSex":
        return value if value in _SEXES else ""
    if keyword not in _FORMS:
        return value or ""
    try:
        return _FORMS[keyword](value or "") or ""
    except ValueError:
        return ""


def _place(made: Dataset, columns: Any, source: DicomSource) -> None:
    """Say where a plane lies: the directions and distances of all are those of the first."""
    first = source.planes[0].columns
    assert isinstance(first, np.ndarray) and isinstance(columns, np.ndarray) and source.affine is not None
    along_column, along_row = first[1:3]
    spacing = np.linalg.norm([along_column, along_row], axis=1)
    made.FrameOfReferenceUID = source.headers[0].FrameOfReferenceUID
    made.ImageOrientationPatient = [*along_row / spacing[1], *along_column / spacing[0]]
    made.ImagePositionPatient = [*columns[3]]
    made.PixelSpacing = [*spacing]
    normal = np.cross(along_row, along_column) / spacing.prod()
    apart = abs(float(source.affine[:3, 0] * [-1, -1, 1] @ normal))
    made.SliceThickness = source.planes[0].thickness or apart
    if len(source.planes) > 1:
        made.SpacingBetweenSlices = apart
