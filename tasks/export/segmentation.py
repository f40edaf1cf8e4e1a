"""DICOM segmentations on the planes of their source: where a map is strongest, the reference region, drawn regions."""

import re

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes

from tasks.export.dicom_objects import SOFTWARE, Origin, check_on_planes, identity, refer, refusals, stamp, text
from tasks.export.dicom_source import DicomSource


def segmentation(
    marked: NDArray[np.bool_], source: DicomSource, origin: Origin, *, by_hand: bool = False, creator: str = ""
) -> Dataset:
    """Make a binary segmentation of one segment (PS3.3 A.51).

    Parameters
    ----------
    marked
        ``(z, y, x)`` on the planes of the source, in the order in which the reader has them. Planes without a marked
        place are left out, as is usual, unless none has one.
    by_hand
        Whether the region was drawn, and not computed.
    creator
        Who has drawn it, by a pseudonym; empty: it is not said.

    Raises
    ------
    CannotExport
        If the region is not on the planes of its source, or the source is none that a segmentation can refer to.
    """
    check_on_planes(marked, source)
    with refusals():
        made = hd.seg.Segmentation(
            source.stand_ins(),
            marked.astype(np.uint8),
            segmentation_type=hd.seg.SegmentationTypeValues.BINARY,
            segment_descriptions=[_described(origin, by_hand)],
            **identity("segmentation", source, origin, np.packbits(marked).tobytes()),
            content_label="REGION",
            content_description=origin.title,
            content_creator_name=text(re.sub("[=^]", " ", creator)).strip() or None,
        )
        refer(made, source)
        stamp(made, origin)
    made.DerivationDescription = origin.how
    if not source.is_placed:
        made.PatientOrientation = source.headers[0].get("PatientOrientation") or ""
    return made


def _described(origin: Origin, by_hand: bool) -> hd.seg.SegmentDescription:
    algorithm = hd.AlgorithmIdentificationSequence(
        name=text(origin.what), family=codes.DCM.ArtificialIntelligence, version=SOFTWARE
    )
    return hd.seg.SegmentDescription(
        segment_number=1,
        segment_label=text(origin.what),
        segmented_property_category=codes.SCT.SpatialAndRelationalConcept,
        segmented_property_type=codes.DCM.SelectedRegion,
        algorithm_type="MANUAL" if by_hand else "AUTOMATIC",
        algorithm_identification=None if by_hand else algorithm,
    )
