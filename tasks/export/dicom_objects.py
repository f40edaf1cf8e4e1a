"""Traits that all DICOM objects of an export share: UIDs, equipment, dates, and the references to their source."""

import hashlib
import json
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from importlib.metadata import version
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.coding import Code
from pydicom.uid import UID, generate_uid

from tasks.export.dicom_source import DicomSource
from tasks.export.format import CannotExport

SCHEME = "99COHORTLENS"
"""The coding scheme of what the standard has no code for; the standard leaves names that begin with 99 to everybody."""

SOFTWARE = f"cohortlens {version('cohortlens')}"

LONG = 64
"""Characters that a text of DICOM's kind LO has at most."""

for _library in ("highdicom", "pydicom", "pynetdicom", "dicomweb_client"):  # their remarks quote what they remark on
    logging.getLogger(_library).setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=rf"{_library}\b")


class Origin(NamedTuple):
    """The origin of an object: what it shows, and how, by what and when that was made.

    Attributes
    ----------
    what
        In a few words, such as ``gradcam for pneumonia``.
    how
        In a sentence.
    model, weights
        Name of the network, and SHA-256 of its weights.
    when
        When the object is made, which DICOM wants to know: but for that, equal content gives equal bytes.
    """

    what: str
    how: str
    model: str
    weights: str
    when: datetime

    @property
    def title(self) -> str:
        return text(f"{self.what}, {self.model} {self.weights[:8]}")


def text(words: str, most: int = LONG) -> str:
    """Write words as an element holds them: without backslashes and control characters, of `most` characters."""
    written = re.sub(r"[\\\x00-\x1f\x7f]", " ", words)
    return written if len(written) <= most else f"{written[: most - 3]}..."


def coded(name: str) -> Code:
    """Make a code of our own of a name; a code has 16 characters, and is part of the name's digest."""
    return Code(hashlib.sha256(name.encode()).hexdigest()[:16], SCHEME, text(name))


def uid(*of: Any) -> UID:
    """Make the UID that belongs to some words and numbers, by a digest over them."""
    return generate_uid(entropy_srcs=[json.dumps(of)])


def identity(kind: str, source: DicomSource, origin: Origin, content: bytes) -> dict[str, Any]:
    """Say which object of which series this is, and what made it, as highdicom's constructors take it.

    One series holds the objects of one kind and map that were made of one series. An object's UID is a digest over its
    source and content, so that an object which is exported again has the UID that it had.
    """
    series = uid("series", kind, str(source.headers[0].SeriesInstanceUID), origin.what, origin.model, origin.weights)
    planes = [(str(plane.header.SOPInstanceUID), plane.frame) for plane in source.planes]
    return {
        "series_instance_uid": series,
        "series_number": 1000 + int(series.rpartition(".")[2]) % 9000,
        "sop_instance_uid": uid(series, planes, origin.how, hashlib.sha256(content).hexdigest()),
        "instance_number": _instance_number(source),
        "manufacturer": "cohortlens",
        "manufacturer_model_name": text(origin.model),
        "software_versions": SOFTWARE,
        "device_serial_number": text(origin.weights),
        "series_description": origin.title,
        "content_date": origin.when.date(),
        "content_time": origin.when.time(),
        "specific_character_set": "ISO_IR 192",
    }


def _instance_number(source: DicomSource) -> int:
    """Give the map of a slice the slice's number, so that maps of a series' slices have their order."""
    try:
        number = int(source.headers[0].InstanceNumber)
    except (AttributeError, TypeError, ValueError):
        return 1
    return max(number, 1) if len(source.headers) == 1 else 1


@contextmanager
def refusals() -> Iterator[None]:
    """Take what a library refuses about a source for a reason of ours, since its message may quote the patient."""
    try:
        yield
    except CannotExport:
        raise
    except Exception as error:
        raise CannotExport(
            f"its source holds what highdicom refuses ({type(error).__name__}): check it by dciodvfy, or export it as "
            "nifti"
        ) from None


def stamp(made: Dataset, origin: Origin) -> None:
    """Leave nothing in an object that chance or the clock decides."""
    made.InstanceCreationDate, made.InstanceCreationTime = f"{origin.when:%Y%m%d}", f"{origin.when:%H%M%S}"
    made.ContributingEquipmentSequence[-1].ContributionDateTime = f"{origin.when:%Y%m%d%H%M%S}"  # of highdicom
    organization = uid("dimensions", str(made.SOPInstanceUID))
    for item in (*made.get("DimensionOrganizationSequence", ()), *made.get("DimensionIndexSequence", ())):
        item.DimensionOrganizationUID = organization


def refer(made: Dataset, source: DicomSource) -> None:
    """Refer to the source in place of its stand-ins."""
    made.SourceImageSequence = [_with_frames(header, source) for header in source.headers]
    series = Dataset()
    series.SeriesInstanceUID = source.headers[0].SeriesInstanceUID
    series.ReferencedInstanceSequence = [_instance(header) for header in source.headers]
    made.ReferencedSeriesSequence = [series]
    for frame in made.PerFrameFunctionalGroupsSequence:
        for derivation in frame.get("DerivationImageSequence", ()):
            for image in derivation.SourceImageSequence:
                number = int(str(image.ReferencedSOPInstanceUID).rpartition(".")[2])
                image.update(source.planes[number].reference)


def check_on_planes(values: NDArray[np.generic], source: DicomSource) -> None:
    """Check that values ``(z, y, x)`` are on the planes of the source.

    Raises
    ------
    CannotExport
        If they are on others.
    """
    if values.shape != source.shape:
        raise CannotExport(
            f"its map has {values.shape} places (z, y, x), and its source {source.shape}: did the source change?"
        )


def _instance(header: Dataset) -> Dataset:
    found = Dataset()
    found.ReferencedSOPClassUID, found.ReferencedSOPInstanceUID = header.SOPClassUID, header.SOPInstanceUID
    return found


def _with_frames(header: Dataset, source: DicomSource) -> Dataset:
    """Refer to an object; to the frames of it that were used, where it has others."""
    found = _instance(header)
    frames = [plane.frame for plane in source.planes if plane.header is header and plane.frame is not None]
    if frames and len(frames) < int(header.NumberOfFrames):
        found.ReferencedFrameNumber = sorted(frames)
    return found
