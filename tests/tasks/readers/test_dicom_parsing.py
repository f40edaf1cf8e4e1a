"""DICOM is recognised without its preamble, and parsed within a bound of memory."""

import struct
import tracemalloc
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filereader import read_partial
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from tasks.cohort.readers import detect, dicom, dicom_parsing, inspect, read
from tasks.cohort.reading import Unreadable
from tests.tasks.readers.test_dicom import RAMP, dataset, encode, pixels

FIRST = {
    "character set": {"SpecificCharacterSet": "ISO_IR 100"},
    "image type": {"ImageType": ["ORIGINAL", "PRIMARY"]},
    "creation date": {"InstanceCreationDate": "20200101"},
    "class": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.4"},
    "patient": {"PatientID": "7"},
    "acquisition": {"BodyPartExamined": "HEAD"},
    "relationship": {"InstanceNumber": 3},
    "pixels": {},
}
PRIVATE = struct.pack("<HH2sHL", 0x0009, 0x1000, b"OB", 0, 2**25) + bytes(2**25)
UNDEFINED = 0xFFFFFFFF
LYING = {"ImageOrientationPatient": [1, 0, 0, 0, 1, 0], "PixelSpacing": [1, 1]}


def bare(made: Dataset, syntax: str) -> bytes:
    sink = BytesIO()
    made.save_as(sink, implicit_vr=syntax == ImplicitVRLittleEndian, little_endian=syntax != ExplicitVRBigEndian)
    return sink.getvalue()


@pytest.mark.parametrize(
    "syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, ExplicitVRBigEndian], ids=lambda syntax: syntax.keyword
)
@pytest.mark.parametrize("first", FIRST)
def test_a_data_set_may_begin_with_any_of_its_groups(first: str, syntax: str) -> None:
    made = dataset(RAMP)
    for keyword in ("SOPClassUID", "SOPInstanceUID", "ImageType", "Modality", "SeriesInstanceUID"):
        delattr(made, keyword)
    for keyword, value in FIRST[first].items():
        setattr(made, keyword, value)
    if syntax == ExplicitVRBigEndian:
        made.PixelData = RAMP.astype(">u2").tobytes()
    data = bare(made, syntax)
    assert detect(data) == "dicom"
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


def test_a_data_set_may_begin_with_the_length_of_its_group() -> None:
    data = b"\x08\x00\x00\x00\x04\x00\x00\x00\xc8\x00\x00\x00" + bare(dataset(RAMP), ImplicitVRLittleEndian)
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


@pytest.mark.parametrize(
    "data",
    [
        b"\x08\x00\x05\x00",
        b"\x08\x00\x05\x00\xff\xff\xff\x7f" + bytes(200),
        b"\x08\x00\x05\x00\x04\x00\x00\x00" + bytes(200),
        b"\x08\x00\xfe\xcaCS\x04\x00" + bytes(200),
        b"\x28\x00\x10\x00US"[:5],
    ],
    ids=["short", "length", "next", "tag", "cut"],
)
def test_what_only_begins_alike_is_no_dicom(data: bytes) -> None:
    with pytest.raises(Unreadable, match="not a known image format"):
        detect(data)


def deflated(body: bytes, *, meta: bytes = b"") -> bytes:
    """A deflated file whose transfer syntax comes after `meta`."""
    uid = DeflatedExplicitVRLittleEndian.encode()
    packer = zlib.compressobj(9, wbits=-15)
    named = b"\x02\x00\x10\x00UI" + struct.pack("<H", len(uid)) + uid
    return bytes(128) + b"DICM" + meta + named + packer.compress(body) + packer.flush()


@pytest.mark.parametrize("late", [0, 20_000, 2**20])
def test_a_deflated_file_is_read_wherever_it_says_so(late: int) -> None:
    body = bare(dataset(RAMP), ExplicitVRLittleEndian)
    meta = struct.pack("<HH2sHL", 2, 1, b"OB", 0, late) + bytes(late)
    data = deflated(body, meta=meta)
    assert inspect(data).decoded == 4 * RAMP.size
    np.testing.assert_array_equal(pixels(data)[0], RAMP)


def sequence(items: bytes) -> bytes:
    """A sequence of functional groups, of undefined length."""
    return struct.pack("<HH2sHL", 0x5200, 0x9230, b"SQ", 0, UNDEFINED) + items + struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)


def elements(count: int, groups: int) -> bytes:
    """Private elements that are empty."""
    return b"".join(
        struct.pack("<HH2sH", 9 + 2 * group, element, b"LO", 0) for group in range(groups) for element in range(count)
    )


def with_header(more: bytes) -> bytes:
    data = encode(dataset(RAMP))
    at = data.index(b"\x28\x00\x02\x00")
    return data[:at] + more + data[at:]


EMPTY_ITEM = struct.pack("<HHL", 0xFFFE, 0xE000, 0)
NESTED = struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) + sequence(b"")[:12]
TRAPS = {
    "items": (lambda: with_header(sequence(EMPTY_ITEM * 200_000)), "200000 items in sequences"),
    "elements": (lambda: with_header(elements(4_000, 4)), "header too large"),
    "elements in an item": (
        lambda: with_header(sequence(struct.pack("<HHL", 0xFFFE, 0xE000, UNDEFINED) + elements(4_000, 4))),
        "header too large",
    ),
    "elements in an item of a length": (
        lambda: (
            encode(dataset(RAMP))[:-252]
            + struct.pack("<HH2sHLHHL", 0x5200, 0x9230, b"SQ", 0, 128_008, 0xFFFE, 0xE000, 128_000)
            + elements(4_000, 4)
            + encode(dataset(RAMP))[-252:]
        ),
        "header too large",
    ),
    "private": (lambda: with_header(PRIVATE), "header too large"),
    "nested": (lambda: with_header(sequence(NESTED * 5000)), "too deep"),
    "deflated": (
        lambda: deflated(bare(dataset(RAMP, PixelData=bytes(2**27)), ExplicitVRLittleEndian)),
        "holds another frame or more",
    ),
    "deflated late": (
        lambda: deflated(
            bare(dataset(RAMP, PixelData=bytes(2**27)), ExplicitVRLittleEndian),
            meta=struct.pack("<HH2sHL", 2, 1, b"OB", 0, 20_000) + bytes(20_000),
        ),
        "holds another frame or more",
    ),
    "deflated header": (lambda: deflated(with_header(PRIVATE * 4)[132 + 28 :]), "header too large"),
    "not deflated": (lambda: deflated(b"")[:-2] + bytes(100), "cannot be inflated"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_a_file_is_parsed_within_a_bound_of_memory(trap: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_parsing, "MEMORY", 2**21)
    make, reason = TRAPS[trap]
    data = make()
    tracemalloc.start()
    for attempt in (inspect, lambda data: read([data], 2)):
        try:
            attempt(data)
        except Unreadable as refusal:
            found = str(refusal)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < len(data) + 3 * 2**24, peak
    with pytest.raises(Unreadable, match=reason):
        raise Unreadable(found)


def test_what_a_header_may_take_is_enough_for_a_volume_of_frames() -> None:
    frames = 200
    groups = Dataset()
    groups.PlanePositionSequence = [Dataset()]
    groups.PlanePositionSequence[0].ImagePositionPatient = [1, 2, 3]
    made = dataset(np.zeros((frames, 2, 2), np.uint16), Rows=2, Columns=2, NumberOfFrames=frames)
    made.PerFrameFunctionalGroupsSequence = [groups] * frames
    made.PerFrameFunctionalGroupsSequence.is_undefined_length = True
    assert read([encode(made)], 3).pixels.shape == (1, frames, 2, 2)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, ExplicitVRLittleEndian, RLELossless])
@pytest.mark.parametrize(
    ("memory", "parsed"),
    [pytest.param(dicom_parsing.MEMORY, 1, id="kept"), pytest.param(0, 2, id="too much to be kept")],
)
def test_headers_are_parsed_once_as_long_as_they_can_be_kept(
    memory: int, parsed: int, syntax: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slices = [dataset(RAMP + z, ImagePositionPatient=[0, 0, z], **LYING) for z in range(3)]
    if syntax == RLELossless:
        for made in slices:
            made.file_meta = FileMetaDataset()
            made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
            made.compress(syntax, generate_instance_uid=False)
    parts = [encode(made, syntax) for made in slices]
    asked = []
    monkeypatch.setattr(dicom, "MEMORY", memory)
    monkeypatch.setattr(
        dicom_parsing, "read_partial", lambda *args, **named: asked.append(1) or read_partial(*args, **named)
    )
    np.testing.assert_array_equal(read(parts, 3).pixels[0], [RAMP, RAMP + 1, RAMP + 2])
    assert len(asked) == parsed * len(parts)


def test_a_compressed_file_that_ends_within_its_pixels_is_damaged() -> None:
    made = dataset(RAMP)
    made.file_meta = FileMetaDataset()
    made.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    made.compress(RLELossless, generate_instance_uid=False)
    with pytest.raises(Unreadable, match="ends early"):
        read([encode(made, RLELossless)[:-20]], 2)


@pytest.mark.parametrize("attempt", [inspect, lambda data: read([data], 2)], ids=["inspect", "read"])
def test_pixels_behind_the_end_of_the_data_set_are_none(attempt: Callable[[bytes], object]) -> None:
    data = encode(dataset(RAMP))
    at = data.index(b"\xe0\x7f\x10\x00")
    with pytest.raises(Unreadable, match="without its pixels"):
        attempt(data[:at] + struct.pack("<HHL", 0xFFFE, 0xE00D, 0) + data[at:])
