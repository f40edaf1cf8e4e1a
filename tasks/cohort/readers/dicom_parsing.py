"""Parse DICOM within a bound of memory, also without a preamble, and deflated as a whole."""

import zlib
from collections.abc import Callable
from io import BytesIO
from struct import unpack_from
from typing import NamedTuple

from pydicom import config
from pydicom.datadict import dictionary_has_tag
from pydicom.dataset import Dataset
from pydicom.filereader import data_element_generator, read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)
from pydicom.valuerep import STANDARD_VR

from tasks.cohort.reading import Unreadable

config.settings.reading_validation_mode = config.IGNORE  # its remarks quote what they remark on

_HEADER = 2**24
"""A deflated file is inflated up to this many bytes to find out what its pixels will take."""

MEMORY = 2**27
"""A header may take this many bytes as objects, by a rough count."""

_OBJECT, _GROWTH = 256, 32
"""The bytes of an element as an object, and how many times as large as its bytes a sequence can become."""

ITEMS = 2**17
"""A file may hold this many items of sequences, which are objects of more than half a KiB however short they are."""

_SEQUENCES = frozenset({0x00283000, 0x00283010, 0x52009229, 0x52009230})
"""Tables and functional groups, the sequences that are taken apart after the file was parsed."""

_FIRST_GROUPS = (0x0002, 0x0008, 0x0010, 0x0018, 0x0020, 0x0028)
_PIXELS = range(0x7FE00008, 0x7FE00011)
"""Float, double float and integer pixel data."""

_UNDEFINED = 2**32 - 1

_PLAIN_META = b"DICM" + b"\x02\x00\x10\x00UI\x14\x00" + ExplicitVRLittleEndian.encode() + b"\0"


class _Header(BytesIO):
    """A file of which no more is parsed than fits into `MEMORY`."""

    def __init__(self, data: bytes) -> None:
        super().__init__(data)
        self.left = MEMORY
        self.is_implicit = self.has_pixels = False

    def read(self, size: int | None = -1, /) -> bytes:
        taken = super().read(size)
        self.left -= len(taken) + _OBJECT
        if self.left < 0:
            raise Unreadable("a DICOM header too large to be parsed: leave out what is not of the image")
        return taken

    def reaches(self, tag: BaseTag, vr: str | None, length: int) -> bool:
        """Tell whether the pixels are reached, before the value of an element is read."""
        if tag in _SEQUENCES and length != _UNDEFINED:
            self.left -= _GROWTH * length
        self.is_implicit, self.has_pixels = vr is None, tag >= _PIXELS.start
        return self.has_pixels


def begins_dicom(data: bytes) -> bool:
    """Recognise the preamble, or where it was left out, the first two elements of a data set."""
    if data[128:132] == b"DICM":
        return True
    return len(data) >= 8 and (_begins("<", data) or _begins(">", data))


def _begins(order: str, data: bytes) -> bool:
    group, element = unpack_from(f"{order}HH", data)
    if group not in _FIRST_GROUPS or not _is_known(group, element):
        return False
    if data[4:6].decode("latin-1") in STANDARD_VR:
        return True
    (length,) = unpack_from(f"{order}I", data, 4)
    if order == ">" or len(data) < 12 + length:
        return False
    group_after, element_after = unpack_from("<HH", data, 8 + length)
    return (group, element) < (group_after, element_after) and (
        group_after % 2 == 1 or _is_known(group_after, element_after)
    )


def _is_known(group: int, element: int) -> bool:
    return element == 0 or dictionary_has_tag(group << 16 | element)


class DicomHeader(NamedTuple):
    """A header: all that comes before the pixels.

    Attributes
    ----------
    dataset
        What it says.
    length
        Its bytes, once the file is inflated.
    has_pixels
        Whether pixels follow.
    memory
        Bytes that it takes as objects, by a rough count.
    is_implicit
        Whether the element that follows leaves out its VR.
    is_inflated
        Whether the file was deflated as a whole, so that there are no pixels in it as it is.
    """

    dataset: Dataset
    length: int
    has_pixels: bool
    memory: int
    is_implicit: bool
    is_inflated: bool


def header_of(data: bytes) -> DicomHeader:
    """Parse what comes before the pixels.

    Raises
    ------
    Unreadable
        If it takes more memory than a header may.
    """
    inflated = _inflated(data, _HEADER)
    _check_items(inflated)
    file = _Header(inflated)
    dataset = _parsed(file, file.reaches)
    memory = MEMORY - file.left
    return DicomHeader(dataset, file.tell(), file.has_pixels, memory, file.is_implicit, inflated is not data)


def with_pixels(header: DicomHeader, data: bytes) -> Dataset:
    """Add the pixels to what the header of a file says; the file is not deflated.

    The header's own data set is taken, which then holds the pixels.
    """
    file, dataset = BytesIO(data), header.dataset
    file.seek(header.length)
    _, is_little_endian = dataset.original_encoding
    try:
        for element in data_element_generator(file, header.is_implicit, bool(is_little_endian), _is_past_pixels):
            dataset[element.tag] = element
    except (EOFError, NotImplementedError):
        raise _cut_short() from None
    return dataset


def dataset_of(data: bytes, most: int) -> Dataset:
    """Parse a whole file, of which `header_of` was found to be in order.

    Parameters
    ----------
    most
        Bytes of the file that are inflated if it is deflated: the rest is as if it were not there.
    """
    inflated = _inflated(data, most)
    if inflated is not data:  # or its header was found to be in order with all that follows
        _check_items(inflated)
    return _parsed(BytesIO(inflated), _is_past_pixels)


def _parsed(file: BytesIO, ends: Callable[[BaseTag, str | None, int], bool]) -> Dataset:
    try:
        dataset = read_partial(file, ends, force=True)
    except RecursionError:
        raise Unreadable("damaged DICOM: sequences in sequences, too deep to be read") from None
    if not len(dataset):  # pydicom then drops all that came before
        raise _cut_short()
    if "TransferSyntaxUID" not in dataset.file_meta:  # only uncompressed files may leave it out
        implicit, little_endian = dataset.original_encoding
        native = ExplicitVRLittleEndian if little_endian else ExplicitVRBigEndian
        dataset.file_meta.TransferSyntaxUID = ImplicitVRLittleEndian if implicit else native
    return dataset


def _cut_short() -> Unreadable:
    return Unreadable("damaged: the DICOM file ends early; copy it again from its source")


def _check_items(data: bytes) -> None:
    items = max(data.count(b"\xfe\xff\x00\xe0"), data.count(b"\xff\xfe\xe0\x00"))
    if items > ITEMS:
        raise Unreadable(f"a DICOM file of {items} items in sequences: at most {ITEMS} are read")


def _inflated(data: bytes, most: int) -> bytes:
    """Inflate a file that is deflated as a whole, up to `most` bytes, or a little more."""
    if DeflatedExplicitVRLittleEndian.encode() not in data:
        return data
    file = _Header(data)
    file.seek(132 if data[128:132] == b"DICM" else 0)
    meta = read_dataset(file, is_implicit_VR=False, is_little_endian=True, stop_when=_is_past_meta)
    if meta.get("TransferSyntaxUID") != DeflatedExplicitVRLittleEndian:
        return data
    inflater, inflated = zlib.decompressobj(-zlib.MAX_WBITS), BytesIO()
    inflated.write(bytes(128) + _PLAIN_META)
    try:
        for start in range(file.tell(), len(data), 2**12):
            inflated.write(inflater.decompress(data[start : start + 2**12], most))
            if inflated.tell() >= most:
                break
    except zlib.error:
        raise Unreadable("damaged: a deflated DICOM file cannot be inflated; copy it again from its source") from None
    return inflated.getvalue()


def _is_past_pixels(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >= _PIXELS.stop


def _is_past_meta(tag: BaseTag, vr: str | None, length: int) -> bool:
    return tag >> 16 != 2
