"""The meaning of DICOM's pixels: which stored numbers are which values."""

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tasks.cohort.readers.dicom_elements import first_item, number, whole_number
from tasks.cohort.readers.dicom_stored import photometric, pixel_keyword, used_bits
from tasks.cohort.readers.dicom_tables import palette_of, table_of
from tasks.cohort.reading import Unreadable, Window, WindowConfig

_GREY = ("MONOCHROME1", "MONOCHROME2")


def plane_values(
    stored: NDArray[np.generic], dataset: Dataset, shared: Dataset, own: Dataset, window: WindowConfig
) -> NDArray[np.float32]:
    """Compute the values of a frame, before `brightness` has seen the whole image.

    Parameters
    ----------
    stored
        ``(y, x)`` or ``(y, x, channel)``, as `stored_frames` gives them.
    shared, own
        The functional groups of all frames, and those of this frame.

    Returns
    -------
    NDArray
        ``(y, x[, channel])``: colours in 8 bits, or grey values in the units of the rescaling; where these are padding,
        minus infinity.

    Raises
    ------
    Unreadable
        If the values cannot be told from what the file says.
    """
    if photometric(dataset) == "PALETTE COLOR":
        return _palette(used_bits(stored, dataset), dataset)
    if stored.ndim > 2:
        return used_bits(stored, dataset).astype(np.float32)
    if photometric(dataset) not in _GREY:
        raise Unreadable("one number a pixel, but PhotometricInterpretation is none of grey values or of a palette")
    used = used_bits(stored, dataset)
    groups = _groups(dataset, shared, own)
    values = _rescaled(used, dataset, groups)
    if isinstance(window, Window):
        values = np.clip(values, window.center - window.width / 2, window.center + window.width / 2)
    elif window == "file":
        values = _seen(values, dataset, groups)
    found = values.astype(np.float32)
    if not (np.isfinite(used).all() and np.isfinite(found).all()):
        raise Unreadable("pixels that are not finite numbers: NaN, infinite, or too large for float32")
    is_padding = _is_padding(stored, dataset) | _is_padding(used, dataset)
    if is_padding.any():
        found[is_padding] = -np.inf
    return found


def brightness(volume: NDArray[np.float32], inverted: bool, window: WindowConfig) -> NDArray[np.float32]:
    """Make larger mean brighter, and padding the darkest value of the image.

    Parameters
    ----------
    volume
        The grey values of an image, of any shape, as `plane_values` gives them.
    inverted
        Whether its smallest value is the brightest (MONOCHROME1). Values are then mirrored about the middle of a fixed
        window, or of the values that are there.
    """
    padding = np.isneginf(volume)
    if padding.all():
        raise Unreadable("each pixel is padding (PixelPaddingValue): leave the file out")
    if inverted:
        low, high = volume.min(where=~padding, initial=np.inf), volume.max()
        total = 2 * window.center if isinstance(window, Window) else np.float64(low) + np.float64(high)
        volume = (total - volume).astype(np.float32)
    if padding.any():
        volume = np.where(padding, volume.min(where=~padding, initial=np.inf), volume)
    return volume


def _palette(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.float32]:
    channels = [table.of(stored) / (2**table.bits - 1) * 255 for table in palette_of(dataset)]
    return np.stack(channels, axis=-1).astype(np.float32)


def _groups(dataset: Dataset, shared: Dataset, own: Dataset) -> Dataset:
    """Gather what is said of a frame's values: in the file, for all of its frames, and for this one."""
    said = dataset.group_dataset(0x0028)
    for sequence in ("PixelValueTransformationSequence", "FrameVOILUTSequence"):
        for group in (shared, own):
            said.update(first_item(group, sequence) or {})
    return said


def _rescaled(stored: NDArray[np.generic], dataset: Dataset, groups: Dataset) -> NDArray[np.float64]:
    """Apply the modality table, or slope and intercept, each of which may be missing, or the scaling of an RT dose."""
    item = first_item(groups, "ModalityLUTSequence")
    if item is not None:
        return _looked_up(stored, item, dataset, _is_signed(dataset))
    slope, intercept = number(groups, "RescaleSlope"), number(groups, "RescaleIntercept")
    values = stored.astype(np.float64)
    if dataset.get("Modality") == "RTDOSE" or "DoseGridScaling" in dataset:
        values *= _scale(number(dataset, "DoseGridScaling"), "DoseGridScaling")
    if slope is not None:
        values *= _scale(slope, "RescaleSlope")
    return values + intercept if intercept is not None else values


def _scale(factor: float | None, keyword: str) -> float:
    if not factor:
        raise Unreadable(f"{keyword} is {'missing' if factor is None else 0}, which says nothing of values")
    return factor


def _is_signed(dataset: Dataset) -> bool:
    return bool(whole_number(dataset, "PixelRepresentation", 0))


def _looked_up(values: NDArray[np.generic], item: Dataset, dataset: Dataset, signed: bool) -> NDArray[np.float64]:
    table = table_of(item, signed=signed, little_endian=dataset.file_meta.TransferSyntaxUID.is_little_endian)
    return table.of(values).astype(np.float64)


def _seen(values: NDArray[np.float64], dataset: Dataset, groups: Dataset) -> NDArray[np.float64]:
    """Apply the file's own VOI table, or the first of its windows, as far as it has any."""
    item = first_item(groups, "VOILUTSequence")
    if item is not None:
        signed = _is_signed(dataset) or (number(groups, "RescaleIntercept") or 0) < 0
        return _looked_up(values, item, dataset, signed)
    center, width = number(groups, "WindowCenter"), number(groups, "WindowWidth")
    if center is None or width is None:
        return values
    function = str(groups.get("VOILUTFunction") or "LINEAR").upper()
    if function not in ("LINEAR", "LINEAR_EXACT", "SIGMOID"):
        raise Unreadable("a VOILUTFunction that the standard does not know: configure a window in place of the file's")
    if function == "LINEAR":  # which counts whole numbers (PS3.3 C.11.2.1.2)
        center, width = center - 0.5, width - 1
    if width <= 0:
        raise Unreadable(
            f"WindowWidth is {width + (function == 'LINEAR'):g}, which leaves nothing to see ({function}): "
            "configure a window in place of the file's"
        )
    low, high = center - width / 2, center + width / 2
    if function == "SIGMOID":
        return low + width / (1 + np.exp(np.clip(-4 * (values - center) / width, -700, 700)))
    return np.clip(values, low, high)


def _is_padding(stored: NDArray[np.generic], dataset: Dataset) -> NDArray[np.bool_]:
    """Find what stands for no value: PixelPaddingValue, or all from there to PixelPaddingRangeLimit."""
    prefix = (pixel_keyword(dataset) or "").removesuffix("PixelData") + "PixelPadding"
    value = number(dataset, f"{prefix}Value")
    if value is None:
        return np.zeros(stored.shape, bool)
    limit = number(dataset, f"{prefix}RangeLimit")
    ends = np.array([value, value if limit is None else limit])
    if stored.dtype.kind != "f":  # a signed value may be written as an unsigned one, or the other way round
        ends = ends.astype(np.int64).astype(stored.dtype)
    return (stored >= ends.min()) & (stored <= ends.max())
