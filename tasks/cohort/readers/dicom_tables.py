"""Lookup tables of DICOM: modality and VOI tables, and palettes, also segmented ones.

pydicom's own functions read 16-bit tables of big-endian files byte-swapped, look up nothing beyond entry 255 of an
8-bit palette, and expand a segmented palette to whatever length it declares.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset

from tasks.cohort.reading import Unreadable

_COLOURS = ("Red", "Green", "Blue")


@dataclass(frozen=True)
class Table:
    """A lookup table: `entries` of `bits` each, the first of which is for the stored value `first`."""

    entries: NDArray[np.uint16]
    first: int
    bits: int

    def of(self, values: NDArray[np.generic]) -> NDArray[np.uint16]:
        """Look up values of any shape; the first and the last entry also stand for what lies beyond."""
        place = values.astype(np.float64)
        place -= self.first
        np.clip(place, 0, len(self.entries) - 1, out=place)
        return self.entries[place.astype(np.int32)]


def table_of(item: Dataset, *, signed: bool, little_endian: bool) -> Table:
    """Read the table of an item of ModalityLUTSequence or VOILUTSequence.

    Parameters
    ----------
    signed
        Whether values to be looked up can be negative.
    little_endian
        The byte order of the file.
    """
    count, first, bits = _descriptor(item, "LUTDescriptor", signed)
    return Table(_entries(item, "LUTData", count, bits, little_endian), first, bits)


def palette_of(dataset: Dataset) -> tuple[Table, Table, Table]:
    """Read the red, green and blue table of a palette."""
    little_endian = dataset.file_meta.TransferSyntaxUID.is_little_endian
    tables = []
    for colour in _COLOURS:
        count, first, bits = _descriptor(
            dataset, f"{colour}PaletteColorLookupTableDescriptor", bool(dataset.get("PixelRepresentation"))
        )
        keyword = f"{colour}PaletteColorLookupTableData"
        if dataset.get(keyword):
            entries = _entries(dataset, keyword, count, bits, little_endian)
        else:
            entries = _expanded(dataset, f"Segmented{keyword}", count, bits, little_endian)
        tables.append(Table(entries, first, bits))
    red, green, blue = tables
    return red, green, blue


def _descriptor(dataset: Dataset, keyword: str, signed: bool) -> tuple[int, int, int]:
    found = dataset.get(keyword)
    if not isinstance(found, bytes) and found is not None and len(found) == 3:
        count, first, bits = (int(value) for value in found)
        if not 8 <= bits <= 16:
            raise Unreadable(f"{keyword} declares {bits} bits: 8 to 16 are read")
        return count % 2**16 or 2**16, first - 2**16 if signed and first >= 2**15 else first, bits
    raise Unreadable(f"damaged DICOM: {keyword} is not three numbers")


def _words(dataset: Dataset, keyword: str, little_endian: bool) -> NDArray[np.uint16]:
    """Read table data, which are bytes or a list, as 16-bit words."""
    if not dataset.get(keyword):
        raise Unreadable(f"damaged DICOM: {keyword} is missing or empty, without which pixels cannot be read")
    element = dataset[keyword]
    if not isinstance(element.value, bytes):
        return np.atleast_1d(np.asarray(element.value, dtype=np.int64)).astype(np.uint16)
    data = element.value + b"\0" * (len(element.value) % 2)
    return np.frombuffer(data, "<u2" if little_endian or element.VR == "OB" else ">u2").astype(np.uint16)


def _packed(words: NDArray[np.uint16]) -> NDArray[np.uint16]:
    """Take the two bytes of each word, the lower one first."""
    return words.astype("<u2").view(np.uint8).astype(np.uint16)


def _entries(dataset: Dataset, keyword: str, count: int, bits: int, little_endian: bool) -> NDArray[np.uint16]:
    """Read a table; one of 8 bits has a byte for each entry, or a word."""
    words = _words(dataset, keyword, little_endian)
    found = words if len(words) >= count or bits > 8 else _packed(words)
    if len(found) < count:
        raise Unreadable(f"damaged DICOM: {keyword} has {len(found)} entries, and its descriptor declares {count}")
    return _checked(found[:count], keyword, bits)


def _checked(entries: NDArray[np.uint16], keyword: str, bits: int) -> NDArray[np.uint16]:
    if entries.max() >= 2**bits:
        raise Unreadable(f"damaged DICOM: {keyword} holds {entries.max()}, and its descriptor declares {bits} bits")
    return entries


def _expanded(dataset: Dataset, keyword: str, count: int, bits: int, little_endian: bool) -> NDArray[np.uint16]:
    """Expand a segmented table (PS3.3 C.7.9.2) up to the number of entries that its descriptor declares."""
    words = _words(dataset, keyword, little_endian)
    values = [int(value) for value in (words if bits > 8 else _packed(words))]
    entries: list[int] = []
    at = 0
    while len(entries) < count and at + 2 < len(values):
        kind, length = values[at : at + 2]
        if kind == 0 and length:  # as they are
            entries.extend(values[at + 2 : at + 2 + length])
            at += 2 + length
        elif kind == 1 and length and entries:  # a line from the entry before
            entries.extend(np.rint(np.linspace(entries[-1], values[at + 2], length + 1)[1:]).astype(int).tolist())
            at += 3
        else:
            raise Unreadable(f"{keyword} has a segment of kind {kind} and length {length}, which is not read")
    if len(entries) < count:
        raise Unreadable(f"damaged DICOM: {keyword} has {len(entries)} entries, and its descriptor declares {count}")
    return _checked(np.array(entries[:count], np.uint16), keyword, bits)
