"""The formats of DICOM, and what their objects say of a case."""

import json
from abc import abstractmethod
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tasks.cohort.reading import Unreadable
from tasks.export.case import Case, Map
from tasks.export.dicom_objects import SOFTWARE, Origin, text
from tasks.export.dicom_source import DicomSource, dicom_source
from tasks.export.drawn import names_of
from tasks.export.format import CannotExport, Format
from tasks.export.names import labels, stem

Value = TypeVar("Value", bound=np.generic)


class Dicom(Format):
    """Objects of one kind, which refer to the objects of the source and name the patient as these do."""

    package, extra = "highdicom", "dicom"
    identifies = True

    def write(self, case: Case, folder: Path) -> None:
        source, when = _source(case), datetime.now()
        for name, made in self.made(case, source, when):
            made.save_as(folder / f"{stem(case.id)}_{name}.dcm", enforce_file_format=True)

    @abstractmethod
    def made(self, case: Case, source: DicomSource, when: datetime) -> Iterator[tuple[str, Dataset]]:
        """Make the objects of a case, with names that files can have."""


class DicomMap(Dicom):
    """A Parametric Map of each map: float, signed, on the planes of the source.

    The window of viewers ends where the colours do, which is the same in all cases. A picture that lies nowhere in the
    patient, as a radiograph, has a frame of reference of its own.
    """

    name = "dicom-map"

    def made(self, case: Case, source: DicomSource, when: datetime) -> Iterator[tuple[str, Dataset]]:
        from tasks.export.parametric_map import parametric_map

        for one, label in zip(case.maps, labels([one.title for one in case.maps]), strict=True):
            origin = _origin(case, one.title, _how(case, one), when)
            yield f"{label}_map", parametric_map(_on_planes(one.values), source, origin, one.scale.ends)


class DicomSegmentation(Dicom):
    """A segmentation of where each map is strongest, of the reference region, and of each region that a rater drew.

    Each is an object of one segment, so that a further rating adds an object, and leaves those alone that a PACS has.
    """

    name = "dicom-seg"
    shows_drawn = True
    marks = True

    def made(self, case: Case, source: DicomSource, when: datetime) -> Iterator[tuple[str, Dataset]]:
        from tasks.export.segmentation import segmentation

        for one, label in zip(case.maps, labels([one.title for one in case.maps]), strict=True):
            origin = _origin(case, f"{one.title}, {one.threshold}", _how(case, one), when)
            yield f"{label}_seg", segmentation(one.threshold.marks(_on_planes(one.values)), source, origin)
        if case.mask is not None:
            origin = _origin(case, "reference region", "The reference region of the cohort", when)
            yield "reference_seg", segmentation(_on_planes(case.mask), source, origin, by_hand=True)
        for drawn, name in zip(case.drawn, names_of(case.drawn), strict=True):
            how = f"{drawn.title}, rating {drawn.rating} of {drawn.time}"
            origin = _origin(case, drawn.title, how, when)
            made = segmentation(_on_planes(drawn.values), source, origin, by_hand=True, creator=drawn.rater)
            yield f"{name}_seg", made


class DicomReport(Dicom):
    """A structured report by TID 1500 with the prediction, and what metrics and regions say of each map."""

    name = "dicom-sr"

    def made(self, case: Case, source: DicomSource, when: datetime) -> Iterator[tuple[str, Dataset]]:
        from tasks.export.structured_report import scores_of, structured_report

        how = f"Scores of {case.network.name} and of its explanations, by {SOFTWARE}"
        yield "scores_sr", structured_report(scores_of(case), source, _origin(case, "scores", how, when))


def _source(case: Case) -> DicomSource:
    """Find the planes that the case was read from."""
    try:
        source = dicom_source(case.files, len(case.space), case.entry.frame)
    except Unreadable as reason:
        raise CannotExport(str(reason)) from None
    if source.affine is not None and case.affine is not None and not np.allclose(source.affine, case.affine, atol=1e-6):
        raise CannotExport("its map lies elsewhere than its source: export it as nifti")
    return source


def _on_planes(values: NDArray[Value]) -> NDArray[Value]:
    return values if values.ndim == 3 else values[None]


def _origin(case: Case, what: str, how: str, when: datetime) -> Origin:
    return Origin(what, text(how, 1024), case.network.name, case.network.sha256, when)


def _how(case: Case, one: Map) -> str:
    parameters = json.dumps({name: value for name, value in one.parameters.items() if value is not None})
    return (
        f"{one.title}: {one.about}; {parameters}; of {case.network.name} with weights of SHA-256 "
        f"{case.network.sha256}, by {SOFTWARE}"
    )
