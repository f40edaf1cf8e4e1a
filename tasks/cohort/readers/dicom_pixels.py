"""The meaning of DICOM's pixels: which stored numbers are which values."""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi_lut, apply_windowing

from tasks.cohort.reading import Window, WindowConfig


def plane_values(
    stored: NDArray[np.generic], dataset: Dataset, shared: Dataset, own: Dataset, window: WindowConfig
) -> NDArray[np.float32]:
    if dataset.PhotometricInterpretation == "PALETTE COLOR":
        return _eight_bit(apply_color_lut(stored, dataset))
    if dataset.get("SamplesPerPixel", 1) > 1:
        return stored.astype(np.float32)
    lut = Dataset()
    lut.update(dataset.group_dataset(0x0028))
    for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        for group in (shared, own):
            if sequence in group:
                lut.update(group[sequence].value[0])
    values = apply_modality_lut(stored, lut)
    low, high = _stored_range(dataset)
    limits = apply_modality_lut(np.array([low, high]), lut) if "ModalityLUTSequence" not in lut else None
    if limits is not None and limits[0] > limits[1]:  # pydicom's windows would run from bright to dark
        slope = -float(lut.RescaleSlope)
        lut.RescaleSlope, lut.RescaleIntercept = slope, float(limits[1]) - low * slope
    if isinstance(window, Window):
        lut.WindowCenter, lut.WindowWidth = window.center, window.width
        lut.VOILUTFunction = "LINEAR_EXACT"  # the default function takes no width below 1
        values = apply_windowing(values, lut)
    elif window == "file":
        values = apply_voi_lut(values, lut)
        if "VOILUTSequence" in lut:
            limits = np.array([0, 2 ** int(lut.VOILUTSequence[0].LUTDescriptor[2]) - 1])
    if dataset.PhotometricInterpretation == "MONOCHROME1":
        limits = np.array([values.min(), values.max()]) if limits is None else limits
        values = limits.sum() - values
    return values.astype(np.float32)


def _stored_range(dataset: Dataset) -> tuple[int, int]:
    bits = int(dataset.BitsStored)
    return (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if dataset.PixelRepresentation else (0, 2**bits - 1)


def _eight_bit(colour: NDArray[np.generic]) -> NDArray[np.float32]:
    values = colour[..., :3].astype(np.float32)
    return values / np.float32(257) if colour.dtype == np.uint16 else values
