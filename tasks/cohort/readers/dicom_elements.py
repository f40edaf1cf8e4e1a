"""Numbers of DICOM elements, which may be missing, empty, several, or no numbers."""

import math

from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from tasks.cohort.reading import Unreadable


def number(dataset: Dataset, keyword: str) -> float | None:
    """Read the first value of an element.

    Returns
    -------
    float or None
        None if the element is missing or empty.

    Raises
    ------
    Unreadable
        If the value is not a finite number.
    """
    try:
        value = dataset.get(keyword)
        if isinstance(value, (MultiValue, list)):
            value = value[0] if len(value) else None
        if value is None or value == "":
            return None
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        raise Unreadable(f"damaged DICOM: {keyword} is no number") from None
    if not math.isfinite(found):
        raise Unreadable(f"damaged DICOM: {keyword} is not finite")
    return found


def whole_number(dataset: Dataset, keyword: str, default: int | None = None) -> int:
    """Read the first value of an element that counts something.

    Raises
    ------
    Unreadable
        If the value is not a whole number, or is missing and there is no default.
    """
    found = number(dataset, keyword)
    if found is None and default is None:
        raise Unreadable(f"damaged DICOM: {keyword} is missing or empty, without which pixels cannot be read")
    if found is None:
        assert default is not None
        return default
    if found != int(found):
        raise Unreadable(f"damaged DICOM: {keyword} is {found:g}, which is no whole number")
    return int(found)


def first_item(dataset: Dataset, keyword: str) -> Dataset | None:
    """Take the first item of a sequence; None if the sequence is missing or empty."""
    items = dataset.get(keyword)
    return items[0] if items else None
