"""Zarr shard objects, encoded whole and at once.

zarr-python encodes the chunks of a shard as asynchronous tasks, at some 0.8 ms each beside the compression; a worker
that writes a few maps an image spends more on that than on the maps. A whole shard is simple: its chunks one after
the other, and an index of their places (Zarr v3 ``sharding_indexed`` codec with the index at the end, ``crc32c``).
zarr-python reads it, and the tests hold it to that.
"""

import math
from collections.abc import Sequence
from itertools import product
from typing import Any

import google_crc32c
import numpy as np
from numcodecs import Blosc, VLenUTF8
from numpy.typing import DTypeLike, NDArray

from models.outputs import TEXT

LEVEL = 1
"""The level of zstd. Higher ones cost more than the few per cent that they save."""


def encode_chunk(chunk: NDArray[Any]) -> bytes:
    """Bytes in C order, little-endian, of texts as Zarr's ``vlen-utf8``; compressed by blosc after a byte shuffle."""
    codec = Blosc(cname="zstd", clevel=LEVEL, shuffle=Blosc.SHUFFLE)
    if chunk.dtype == TEXT:
        chunk = VLenUTF8().encode(chunk.astype(object).ravel())
    else:
        chunk = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
    encoded: bytes = codec.encode(chunk)
    return encoded


def encode_shard(shard: NDArray[Any], chunk: Sequence[int]) -> bytes:
    """Encode an array that is cut into chunks of shape `chunk`, which divides its shape."""
    counts = [size // part for size, part in zip(shard.shape, chunk, strict=True)]
    index = np.empty((math.prod(counts), 2), dtype="<u8")
    parts = []
    offset = 0
    for number, place in enumerate(product(*map(range, counts))):
        within = tuple(slice(at * part, (at + 1) * part) for at, part in zip(place, chunk, strict=True))
        encoded = encode_chunk(shard[within])
        index[number] = offset, len(encoded)
        offset += len(encoded)
        parts.append(encoded)
    places = index.tobytes()
    checksum = google_crc32c.value(places).to_bytes(4, "little")
    return b"".join([*parts, places, checksum])


def decode_chunk(data: bytes, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Undo `encode_chunk`."""
    decoded = Blosc().decode(data)
    if dtype == TEXT:
        return VLenUTF8().decode(decoded).astype(TEXT).reshape(shape)
    return np.frombuffer(decoded, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)


def decode_shard(data: bytes, shape: Sequence[int], chunk: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Undo `encode_shard`."""
    counts = [size // part for size, part in zip(shape, chunk, strict=True)]
    index = np.frombuffer(data[-16 * math.prod(counts) - 4 : -4], "<u8").reshape(-1, 2)
    whole = np.empty(shape, dtype)
    for (offset, length), place in zip(index.tolist(), product(*map(range, counts)), strict=True):
        within = tuple(slice(at * part, (at + 1) * part) for at, part in zip(place, chunk, strict=True))
        whole[within] = decode_chunk(data[offset : offset + length], chunk, dtype)
    return whole


def pad(values: NDArray[Any], shape: Sequence[int], fill: float | str) -> NDArray[Any]:
    """Fill up at the end of each axis: Zarr's chunks are whole, also where the array ends."""
    if values.shape == tuple(shape):
        return values
    widths = [(0, whole - size) for whole, size in zip(shape, values.shape, strict=True)]
    return np.pad(values, widths, constant_values=np.array(fill, values.dtype))
