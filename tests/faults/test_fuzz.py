"""Mutated files are read or refused, in a process that must not crash, hang or take more memory than it may.

``COHORTLENS_FUZZ`` is the number of files and ``COHORTLENS_FUZZ_SEED`` where they begin.
"""

import gzip
import json
import multiprocessing
import os
import random
import resource
import struct
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from io import BytesIO
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import imagecodecs
import nibabel
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image
from pydicom.data import get_testdata_file
from pydicom.encaps import encapsulate
from pydicom.uid import (
    JPEG2000,
    UID,
    DeflatedExplicitVRLittleEndian,
    HTJ2KLossless,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGExtended12Bit,
    JPEGLossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    JPEGLSNearLossless,
)

from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom
from tests.tasks.readers.test_dicom import dataset, encode

COUNT = int(os.environ.get("COHORTLENS_FUZZ", "500"))
SEED = int(os.environ.get("COHORTLENS_FUZZ_SEED", str(time.time_ns() % 10**9)))

BOUND = 2**24
"""The most bytes that the pixels of one of these images may take; the whole ones take far less."""
PEAK = 10 * BOUND
"""The most bytes that reading may add to the memory of the process."""
SECONDS = 10.0
START = "spawn"

_EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
_DICOM = (
    "MR_small_RLE.dcm",
    "SC_rgb_rle_2frame.dcm",
    "rtdose.dcm",
    "JPEG2000.dcm",
    "SC_rgb_jpeg_dcmtk.dcm",
    "emri_small.dcm",
    "JPGExtended.dcm",
    "MR_small_jpeg_ls_lossless.dcm",
)


def seeds() -> dict[str, bytes]:
    """Whole files of each kind, by name."""
    generator = np.random.default_rng(0)
    grey = generator.integers(0, 255, (40, 30), dtype=np.uint8)
    deep = generator.integers(0, 4096, (40, 30)).astype(np.uint16)
    colour = generator.integers(0, 255, (40, 30, 3), dtype=np.uint8)
    volume = generator.integers(-99, 999, (12, 10, 8)).astype(np.int16)
    found: dict[str, bytes] = {}

    def saved(name: str, image: Image.Image, format: str, **options: Any) -> None:
        sink = BytesIO()
        image.save(sink, format, **options)
        found[name] = sink.getvalue()

    saved("grey.png", Image.fromarray(grey), "PNG")
    saved("deep.png", Image.fromarray(deep), "PNG")
    saved("colour.png", Image.fromarray(colour), "PNG")
    saved("palette.png", Image.fromarray(colour).quantize(16), "PNG")
    saved("grey.jpg", Image.fromarray(grey), "JPEG")
    saved("colour.jpg", Image.fromarray(colour), "JPEG", progressive=True)
    for compression in ("none", "lzw", "zlib", "packbits"):
        sink = BytesIO()
        tifffile.imwrite(sink, np.stack([deep] * 3), compression=compression, photometric="minisblack")
        found[f"{compression}.tif"] = sink.getvalue()
    sink = BytesIO()
    tifffile.imwrite(sink, np.pad(grey, ((0, 24), (0, 34))), tile=(32, 32), compression="zlib")
    found["tiled.tif"] = sink.getvalue()
    for name, dtype in (("short", "<i2"), ("big", ">f4"), ("double", "<f8")):
        data = nibabel.Nifti1Image(volume.astype(dtype), np.eye(4)).to_bytes()
        found |= {f"{name}.nii": data, f"{name}.nii.gz": gzip.compress(data)}
    found["second.nii"] = nibabel.Nifti2Image(volume, np.eye(4)).to_bytes()
    for name, array in (("volume.npy", volume), ("picture.npy", deep), ("order.npy", np.asfortranarray(volume))):
        sink = BytesIO()
        np.save(sink, array)
        found[name] = sink.getvalue()
    drawn = Phantom(volume.astype(np.float32) / 999, volume > 0, np.eye(4))
    found["plain.dcm"] = next(dicom_slices(drawn, "fuzz"))
    for name in _DICOM:
        path = get_testdata_file(name, download=False)
        if path:
            found[name] = Path(str(path)).read_bytes()
    for syntax, codestream in codestreams(deep).items():
        found[f"{syntax.name}.dcm"] = encode(dataset(deep, PixelData=encapsulate([codestream])), syntax)
    for syntax, codestream in codestreams(colour).items():
        made = dataset(colour, 8, SamplesPerPixel=3, PlanarConfiguration=0, PhotometricInterpretation="RGB")
        made.PixelData = encapsulate([codestream])
        found[f"colour {syntax.name}.dcm"] = encode(made, syntax)
    found["deflated.dcm"] = encode(dataset(deep), DeflatedExplicitVRLittleEndian)
    return found


def codestreams(picture: NDArray[Any]) -> dict[UID, bytes]:
    """Compress a picture in each of the ways that DICOM has."""
    bits = 12 if picture.dtype.itemsize > 1 else 8
    jpeg = imagecodecs.jpeg8_encode
    jpeg2000 = partial(imagecodecs.jpeg2k_encode, picture, codecformat="j2k", bitspersample=bits)
    return {
        JPEGExtended12Bit if bits == 12 else JPEGBaseline8Bit: jpeg(picture, level=90, bitspersample=bits),
        JPEGLossless: jpeg(picture, lossless=True, predictor=6, bitspersample=bits),
        JPEGLosslessSV1: jpeg(picture, lossless=True, predictor=1, bitspersample=bits),
        JPEGLSLossless: imagecodecs.jpegls_encode(picture),
        JPEGLSNearLossless: imagecodecs.jpegls_encode(picture, level=3),
        JPEG2000Lossless: jpeg2000(reversible=True, level=0),
        JPEG2000: jpeg2000(reversible=False, level=60),
        HTJ2KLossless: imagecodecs.htj2k_encode(picture),
    }


def mutated(data: bytes, donor: bytes, random: random.Random) -> bytes:
    """Damage a file in one to four ways."""
    made = bytearray(data)
    codestream = data.find(b"\xfe\xff\x00\xe0", data.find(b"\xe0\x7f\x10\x00") + 20)
    start = random.choice((0, 0, max(0, codestream)))
    for _ in range(random.randint(1, 4)):
        near = random.random() < 0.6  # headers are where it matters most, also those of compressed frames
        at = start + random.randrange(600 if near else len(data))
        at = min(at, len(made) - 1) if made else 0
        match random.choice(("flip", "flip", "field", "field", "cut", "splice", "repeat", "drop")):
            case "flip" if made:
                for _ in range(random.choice((1, 1, 8, 64))):
                    made[min(len(made) - 1, at + random.randrange(64))] ^= 1 << random.randrange(8)
            case "field":
                width, order = random.choice((1, 2, 4, 8)), random.choice("<>")
                value = random.choice(_EXTREMES) & (256**width - 1)
                made[at : at + width] = struct.pack(
                    f"{order}{dict(zip((1, 2, 4, 8), 'BHIQ', strict=True))[width]}", value
                )
            case "cut":
                del made[at:]
            case "splice":
                begin, length = random.randrange(len(donor)), random.randrange(1, 400)
                made[at : at + length * random.choice((0, 1))] = donor[begin : begin + length]
            case "repeat":
                made[at:at] = made[at : at + random.randrange(1, 200)] * random.choice((1, 2, 50))
            case "drop":
                del made[at : at + random.randrange(1, 64)]
    return bytes(made)


def cases(count: int, seed: int) -> Iterator[tuple[int, str, bytes]]:
    whole = seeds()
    names = sorted(whole)
    for number in range(seed, seed + count):
        chance = random.Random(number)
        name = names[number % len(names)]
        yield number, name, mutated(whole[name], whole[chance.choice(names)], chance)


def reader(connection: Connection) -> None:
    """Read what comes, in two and three dimensions, and say how it went and what it took."""
    import numpy as np

    from tasks.cohort.readers import inspect, read
    from tasks.cohort.reading import Unreadable

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))

    def peak() -> int:
        return int(Path("/proc/self/status").read_text().split("VmHWM:")[1].split()[0]) * 1024

    for data in seeds().values():  # libraries that decoders load on first use are not counted
        for dims in (2, 3):
            try:
                read([data], dims, "file")
            except Unreadable:
                continue
    resource.setrlimit(resource.RLIMIT_AS, (2**33, 2**33))
    connection.send(peak())
    while (data := connection.recv_bytes()) != b"stop":
        outcome = []
        for attempt in (
            lambda: inspect(data),
            lambda: read([data], 2, "none", BOUND).pixels,
            lambda: read([data], 3, "file", BOUND).pixels,
        ):
            try:
                found = attempt()
                if isinstance(found, np.ndarray):
                    assert found.dtype == np.float32 and 0 < found.nbytes <= BOUND, (found.dtype, found.shape)
                    outcome.append("read")
            except Unreadable as reason:
                outcome.append(f"refused: {reason}")
        connection.send((outcome, peak()))


class Child:
    """A process that reads; another takes its place when it is gone."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        context = multiprocessing.get_context(START)
        self.ours, theirs = context.Pipe()
        self.process = context.Process(target=reader, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.base: int = self.ours.recv()

    def read(self, data: bytes) -> tuple[str | None, list[str]]:
        """Say what went wrong, and what came out."""
        self.ours.send_bytes(data)
        problem: str | None = None
        if not self.ours.poll(SECONDS):
            problem = f"hangs for more than {SECONDS} s"
        else:
            try:
                outcome, peak = self.ours.recv()
            except EOFError:
                self.process.join(5)
                problem = f"crashes with exit code {self.process.exitcode}"
            else:
                if peak - self.base <= PEAK:
                    return None, outcome
                problem = f"takes {(peak - self.base) / 2**20:.0f} MiB"
        self.stop()
        self.start()
        return problem, []

    def stop(self) -> None:
        self.process.kill()
        self.process.join()
        self.ours.close()


@pytest.mark.timeout(max(300, COUNT))
def test_mutated_files_are_read_or_refused(tmp_path: Path) -> None:
    print(f"\n{COUNT} mutated files from seed {SEED}: COHORTLENS_FUZZ_SEED={SEED} repeats them")
    assert len(seeds()) > 20
    child, wrong, outcomes, slowest = Child(), {}, Counter[str](), 0.0
    try:
        for number, name, data in cases(COUNT, SEED):
            began = time.monotonic()
            problem, outcome = child.read(data)
            slowest = max(slowest, time.monotonic() - began)
            if problem:
                wrong[f"{number} ({name})"] = problem
            outcomes.update("read" if "read" in outcome else "refused" for _ in outcome[:1])
            assert all(len(reason) > 20 for reason in outcome if reason != "read")
    finally:
        child.stop()
    print(f"{outcomes['read']} read, {outcomes['refused']} refused, {len(wrong)} wrong, slowest {slowest:.1f} s")
    assert not wrong, f"COHORTLENS_FUZZ_SEED={SEED}: {json.dumps(wrong, indent=1)}"
    assert outcomes["read"] > COUNT // 50 and outcomes["refused"] > COUNT // 10


def test_the_watch_sees_what_goes_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child that dies, hangs or takes memory is noticed, and replaced."""
    monkeypatch.setattr("tests.faults.test_fuzz.SECONDS", 1.0)
    monkeypatch.setattr("tests.faults.test_fuzz.START", "fork")  # sooner: these children import nothing
    monkeypatch.setattr("tests.faults.test_fuzz.reader", misbehaving)
    child = Child()
    assert child.read(b"die")[0] == "crashes with exit code -9"
    assert child.read(b"hang")[0] == "hangs for more than 1.0 s"
    assert "takes 10" in str(child.read(b"grow")[0])
    assert child.read(b"fine") == (None, ["read"])
    child.stop()


def misbehaving(connection: Connection) -> None:
    connection.send(0)
    match connection.recv_bytes():
        case b"die":
            os.kill(os.getpid(), 9)
        case b"hang":
            time.sleep(60)
        case b"grow":
            connection.send((["read"], 2**30))
        case _:
            connection.send((["read"], 0))
