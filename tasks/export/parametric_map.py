"""DICOM Parametric Maps: the float values of a map, on the planes of its source."""

import json

import highdicom as hd
import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

from tasks.export.dicom_objects import SCHEME, Origin, check_on_planes, identity, refer, refusals, stamp, uid
from tasks.export.dicom_source import DicomSource
from tasks.export.format import CannotExport


def parametric_map(
    values: NDArray[np.float32], source: DicomSource, origin: Origin, ends: tuple[float, float]
) -> Dataset:
    """Make a Parametric Map (PS3.3 A.75) whose stored values are the map's, and mean what they are.

    Parameters
    ----------
    values
        ``(z, y, x)`` float32 on the planes of the source, in the order in which the reader has them.
    ends
        The values at which viewers let the window end.

    Raises
    ------
    CannotExport
        If the map is not on the planes of its source, is not finite, or the source is none that a map can refer to.
    """
    check_on_planes(values, source)
    if not np.isfinite(values).all():
        raise CannotExport("its map is not finite, and no DICOM object says what NaN would mean: leave the map out")
    with refusals():
        made = hd.pm.ParametricMap(
            source.stand_ins() if source.is_placed else [_in_a_frame_of_its_own(source)],
            values,
            **identity("map", source, origin, json.dumps(ends).encode() + values.tobytes()),
            contains_recognizable_visual_features=False,
            real_world_value_mappings=[_mapping(values, origin)],
            voi_lut_transformations=[_window(*ends)],
            content_label="MAP",
            content_description=origin.title,
        )
        refer(made, source)
        stamp(made, origin)
    made.DerivationDescription = origin.how
    made.Laterality = source.headers[0].get("Laterality") or ""  # which the standard demands of a map alone
    return made


def _mapping(values: NDArray[np.float32], origin: Origin) -> hd.pm.RealWorldValueMapping:
    return hd.pm.RealWorldValueMapping(
        lut_label="ATTRIBUTION",
        lut_explanation=origin.title,
        unit=codes.UCUM.NoUnits,
        value_range=(float(values.min()), float(values.max())),
        slope=1.0,
        intercept=0.0,
        quantity_definition=Code("attribution", SCHEME, "Attribution of a prediction"),
    )


def _window(lowest: float, largest: float) -> hd.VOILUTTransformation:
    return hd.VOILUTTransformation(
        window_center=(lowest + largest) / 2, window_width=largest - lowest, voi_lut_function="LINEAR_EXACT"
    )


def _in_a_frame_of_its_own(source: DicomSource) -> Dataset:
    """Place a picture that lies nowhere in a frame of reference that nothing else has, as a map has to have one."""
    (plane,), (made,) = source.planes, source.stand_ins()
    made.FrameOfReferenceUID = uid("frame of reference", str(plane.header.SOPInstanceUID), plane.frame)
    made.ImagePositionPatient, made.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
    spacings = (plane.header.get(keyword) for keyword in ("PixelSpacing", "ImagerPixelSpacing"))
    made.PixelSpacing = next(filter(None, spacings), [1, 1])
    made.SliceThickness = None
    return made
