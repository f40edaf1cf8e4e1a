import gc
import os
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from tasks.cohort.readers import inspect, read
from tasks.cohort.reading import Unreadable

COUNTS = np.random.default_rng(8).integers(0, 100, (4, 5, 6))


def encode(array: NDArray[np.generic]) -> bytes:
    sink = BytesIO()
    np.save(sink, array)
    return sink.getvalue()


@dataclass
class Trap:
    """Makes a folder when it is unpickled."""

    folder: Path

    def __reduce__(self) -> tuple[object, tuple[Path]]:
        return os.mkdir, (self.folder,)


@pytest.mark.parametrize("dtype", ["?", "u1", "i1", "<u2", ">u2", "<i4", "<i8", "<f2", "<f4", ">f4", "<f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_numbers_of_all_kinds_become_float32(dtype: str, order: str) -> None:
    array = np.asarray(COUNTS.astype(dtype), order=order)
    decoded = read([encode(array)], 3)
    assert decoded.pixels.dtype == np.dtype("=f4") and decoded.affine is None
    np.testing.assert_array_equal(decoded.pixels[0], COUNTS.astype(dtype).astype(float))


def test_a_leading_axis_is_the_channel() -> None:
    np.testing.assert_array_equal(read([encode(COUNTS)], 2).pixels, COUNTS)


@pytest.mark.parametrize(
    ("array", "dims", "message"),
    [
        (COUNTS[0], 3, r"shape is \(5, 6\): the model takes 3 spatial dimensions"),
        (COUNTS[None, None], 3, r"shape is \(1, 1, 4, 5, 6\)"),
        (COUNTS[0, 0], 2, r"shape is \(6,\): the model takes 2"),
        (COUNTS[None], 2, r"shape is \(1, 4, 5, 6\)"),
        (COUNTS[:0], 3, "no pixels"),
        (COUNTS.astype(complex), 3, "type is complex128: save it as integers or floats"),
        (COUNTS.astype(str), 3, "type is str_"),
        (np.zeros((4, 5, 6), "datetime64[s]"), 3, "type is datetime64"),
    ],
)
def test_what_is_no_image_is_refused(array: NDArray[np.generic], dims: int, message: str) -> None:
    with pytest.raises(Unreadable, match=message):
        read([encode(array)], dims)


def test_objects_are_never_unpickled(tmp_path: Path) -> None:
    trap = tmp_path / "sprung"
    data = encode(np.array([[Trap(trap)]], dtype=object))
    np.load(BytesIO(data), allow_pickle=True)
    trap.rmdir()  # fails if the trap does not work
    with pytest.raises(Unreadable, match="the array's type is object_"):
        read([data], 2)
    assert not trap.exists()


@pytest.mark.parametrize("length", [7, 40, 500])
def test_a_truncated_array_is_refused(length: int) -> None:
    with pytest.raises(Unreadable, match=r"damaged|npy"):
        read([encode(COUNTS)[:length]], 3)


def headed(header: str, version: bytes = b"\x01\x00") -> bytes:
    """Put a header before a few bytes, whatever it says."""
    text = header.encode()
    return b"\x93NUMPY" + version + struct.pack("<H" if version == b"\x01\x00" else "<I", len(text)) + text + bytes(480)


@pytest.mark.parametrize(
    "data",
    [
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5, 6), }" + " " * 20_000),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5, 6), }" + " " * 70_000, b"\x02\x00"),
        headed("(" * 5000 + ")" * 5000),
        headed("-" * 9000 + "1"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, 5, 6), }"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-4, -5, 6), }"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (4, 5, 1e9), }"),
        headed("{'descr': [('a', '<f4'), ('b', '<f4')], 'fortran_order': False, 'shape': (4, 5, 6), }"),
        headed("{'descr': ('<f4', (2,)), 'fortran_order': False, 'shape': (4, 5, 3), }"),
        headed("\x00\xff"),
        b"\x93NUMPY\x01\x00\xff\xff{}",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff{}",
        b"\x93NUMPY\x09\x00\x00\x00{}",
    ],
)
def test_a_header_that_cannot_be_is_a_reason(data: bytes) -> None:
    for refuse in (inspect, lambda data: read([data], 3)):
        with pytest.raises(Unreadable):
            refuse(data)


def test_the_memory_is_in_the_order_of_the_axes() -> None:
    assert read([encode(np.asfortranarray(COUNTS, ">f8"))], 3).pixels.flags.c_contiguous


@contextmanager
def many_switches() -> Iterator[None]:
    """Let threads take turns wherever they can, also while memory is collected, as where Dask watches that."""
    watch, interval, thresholds = lambda *_: sum(range(20)), sys.getswitchinterval(), gc.get_threshold()
    gc.callbacks.append(watch)
    gc.set_threshold(10, 2, 2)
    sys.setswitchinterval(1e-6)
    try:
        yield
    finally:
        sys.setswitchinterval(interval)
        gc.set_threshold(*thresholds)
        gc.callbacks.remove(watch)


def test_threads_that_read_at_once_find_no_damage() -> None:
    data = encode(COUNTS)
    with many_switches(), ThreadPoolExecutor(8) as pool:
        assert {header.format for header in pool.map(lambda _: inspect(data), range(2000))} == {"npy"}
        assert {image.pixels.shape for image in pool.map(lambda _: read([data], 3), range(1000))} == {(1, 4, 5, 6)}
