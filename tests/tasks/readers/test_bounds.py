"""A file that declares more than is allowed is refused before it is decoded, and memory does not move."""

import gzip
import os
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, JPEGBaseline8Bit

from tasks.cohort.readers import inspect, read
from tasks.cohort.reading import MOST_FRAMES, Unreadable, check_decoded, check_file
from tests.tasks.readers.test_dicom import dataset, encode

BOUND = 2**28
UNMOVED = 2**25


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 2**24)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def jpeg(width: int, height: int) -> bytes:
    sink = BytesIO()
    Image.new("L", (8, 8)).save(sink, "JPEG")
    data = bytearray(sink.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


def tiff(pages: int, side: int) -> bytes:
    """Pages that share their compressed pixels, so that the file stays small."""
    sink = BytesIO()
    tifffile.imwrite(sink, np.zeros((side, side), np.uint8), compression="zlib", rowsperstrip=side)
    data = bytearray(sink.getvalue())
    first = struct.unpack("<I", data[4:8])[0]
    count = struct.unpack("<H", data[first : first + 2])[0]
    entries = bytes(data[first + 2 : first + 2 + 12 * count])
    at, link = len(data), first + 2 + 12 * count
    for _ in range(pages - 1):
        data[link : link + 4] = struct.pack("<I", at)
        data += struct.pack("<H", count) + entries + struct.pack("<I", 0)
        link, at = len(data) - 4, len(data)
    return bytes(data)


def tiled_tiff() -> bytes:
    sink = BytesIO()
    tifffile.imwrite(sink, np.zeros((64, 64), np.uint8), tile=(64, 64), compression="zlib")
    data = bytearray(sink.getvalue())
    for tag in (322, 323):  # the width and the length of tiles
        at = next(at for kind in (3, 4) if (at := data.find(struct.pack("<HHI", tag, kind, 1))) >= 0)
        data[at : at + 12] = struct.pack("<HHII", tag, 4, 1, 60_000)
    return bytes(data)


def nifti(shape: tuple[int, ...], pack: Callable[[bytes], bytes] = bytes) -> bytes:
    header = nibabel.Nifti1Header()
    header.set_data_shape(shape)
    header.set_data_dtype(np.uint8)
    header["magic"], header["vox_offset"] = b"n+1", 352
    return pack(header.binaryblock + bytes(4))


def expanding() -> bytes:
    """A gzip of a small volume, with a thousand times as much after it."""
    volume = nibabel.Nifti1Image(np.zeros((64, 64, 16), np.uint8), np.eye(4)).to_bytes()
    packer = zlib.compressobj(9, wbits=31)
    data = packer.compress(volume)
    for _ in range(8):
        data += packer.compress(bytes(2**27))
    return data + packer.flush()


def npy(shape: str, descr: str = "<f4") -> bytes:
    header = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".ljust(117).encode() + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + bytes(64)


def dicom(**elements: object) -> bytes:
    return encode(dataset(np.zeros((8, 8), np.uint16), **elements))


def dicom_jpeg() -> bytes:
    """Rows and Columns are small, the JPEG within is not."""
    made = dataset(np.zeros((8, 8), np.uint8), 8, PixelData=encapsulate([jpeg(65_000, 65_000)]))
    return encode(made, JPEGBaseline8Bit)


def dicom_jpeg_gap() -> bytes:
    """A JPEG with something between its segments."""
    frame = bytearray(jpeg(8, 8))
    at = frame.index(b"\xff\xda")
    frame[at:at] = bytes(4)
    return encode(dataset(np.zeros((8, 8), np.uint8), 8, PixelData=encapsulate([bytes(frame)])), JPEGBaseline8Bit)


def dicom_deflated() -> bytes:
    made = dataset(np.zeros((8, 8), np.uint16), PixelData=bytes(2**27))
    return encode(made, DeflatedExplicitVRLittleEndian)


TRAPS: dict[str, tuple[Callable[[], bytes], str]] = {
    "png": (lambda: png(65_535, 65_535), r"declares pixels of 16\.0 GiB"),
    "jpeg": (lambda: jpeg(65_535, 65_535), r"declares pixels of 16\.0 GiB"),
    "tiff": (lambda: tiff(2000, 2048), r"declares pixels of 31\.2 GiB"),
    "tiff pages": (lambda: tiff(MOST_FRAMES + 2, 1), f"{MOST_FRAMES + 1} frames"),
    "tiff tiles": (tiled_tiff, r"declares pixels of 13\.4 GiB"),
    "nifti": (lambda: nifti((2000, 2000, 2000)), "declares pixels of 8000000352 bytes and holds 352"),
    "gzip": (lambda: nifti((2000, 2000, 2000), gzip.compress), r"declares pixels of 29\.8 GiB"),
    "gzip expanding": (expanding, "expands to more than the 65888 bytes"),
    "gzip of nothing": (
        lambda: nifti((400, 400, 400), gzip.compress),
        "declares pixels of 64000352 bytes and holds 352",
    ),
    "npy": (lambda: npy("(100000, 100000)"), "declares pixels of 40000000000 bytes and holds 64"),
    "npy itemsize": (lambda: npy("(1,)", "|S1000000000"), "type is bytes_"),
    "dicom frames": (lambda: dicom(NumberOfFrames=10**6), f"1000000 frames: 1 to {MOST_FRAMES}"),
    "dicom": (lambda: dicom(Rows=65_535, Columns=65_535), r"declares pixels of 16\.0 GiB"),
    "dicom cut": (lambda: dicom(Rows=4000, Columns=4000), "declares pixels of 32000000 bytes and holds 128"),
    "dicom jpeg": (dicom_jpeg, "frame is 65000 x 65000 x 1, but the file declares 8 x 8 x 1"),
    "dicom jpeg gap": (dicom_jpeg_gap, "does not say how large it is"),
    "dicom deflated": (dicom_deflated, "NumberOfFrames is 1, and PixelData holds another frame or more"),
}


@pytest.mark.parametrize("trap", TRAPS)
def test_what_would_be_too_large_is_refused_with_the_sizes(trap: str) -> None:
    make, message = TRAPS[trap]
    with pytest.raises(Unreadable, match=message):
        read([make()], 3, largest=BOUND)


def test_no_memory_is_taken_for_it(tmp_path: Path) -> None:
    for number, (make, _) in enumerate(TRAPS.values()):
        (tmp_path / str(number)).write_bytes(make())
    warm = BytesIO()
    np.save(warm, np.zeros((2, 8, 8)))
    (tmp_path / "warm").write_bytes(warm.getvalue())
    code = """
import sys
from pathlib import Path
from tasks.cohort.readers import inspect, read
from tasks.cohort.reading import Unreadable
peak = lambda: int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024
folder, bound, control = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3] == "control"
read([(folder / "warm").read_bytes()], 3)
before = peak()
for path in sorted(folder.iterdir()):
    for attempt in (inspect, lambda data: read([data], 3, largest=bound)):
        try:
            attempt(path.read_bytes())
        except Unreadable:
            continue
if control:
    bytearray(2**26).count(1)
print(peak() - before)
"""

    def moved(kind: str) -> int:
        run = [sys.executable, "-c", code, str(tmp_path), str(BOUND), kind]
        return int(subprocess.check_output(run, text=True, timeout=280, env=os.environ | {"PYTHONPATH": os.getcwd()}))

    assert moved("control") > UNMOVED > moved("")


@pytest.mark.parametrize("check", [check_decoded, check_file])
def test_the_bound_is_what_is_just_allowed(check: Callable[[int, int], None]) -> None:
    check(2**20, 2**20)
    with pytest.raises(Unreadable, match=r"cohort\.largest_image"):
        check(2**26, 2**20)


def test_a_volume_of_two_gigabytes_is_allowed() -> None:
    check_decoded(512 * 512 * 2000 * 4, 2 * 2**30)
    check_file(512 * 512 * 2000 * 8 + 2**16, 2 * 2**30)


def test_headers_say_what_the_pixels_will_take() -> None:
    grey, colour = np.zeros((5, 7), np.uint8), np.zeros((5, 7, 3), np.uint8)
    for array, values in ((grey, 35), (colour, 105)):
        for format in ("PNG", "TIFF"):
            sink = BytesIO()
            Image.fromarray(array).save(sink, format)
            assert inspect(sink.getvalue()).decoded == 4 * values == read([sink.getvalue()], 2).pixels.nbytes
    data = nibabel.Nifti1Image(np.zeros((4, 5, 6), np.int16), np.eye(4)).to_bytes()
    for packed in (data, gzip.compress(data)):
        assert inspect(packed).decoded == 480 == read([packed], 3).pixels.nbytes
    assert inspect(dicom()).decoded == 256 == read([dicom()], 2).pixels.nbytes
