"""Zarr shard objects, encoded whole and at once.

zarr-python encodes the chunks of a shard as asynchronous tasks, at some 0.8 ms each beside the compression; a worker
that writes a few maps an image spends more on that than on the maps. A whole shard is simple: its chunks one after
the other, and an index of their places (Zarr v3 ``sharding_indexed`` codec with the index at the end, ``crc32c``).
zarr-python reads it, and the tests hold it to that.
"""

import math
from collections.abc import Sequence
from itertools import accumulate, product
from typing import Any, NamedTuple

import google_crc32c
import numpy as np
from numcodecs import Blosc, VLenUTF8
from numpy.typing import DTypeLike, NDArray

from models.outputs import TEXT


class Compression(NamedTuple):
    """A compression by Blosc; the shuffle is by Zarr's name of it."""

    cname: str
    clevel: int
    shuffle: str


_SHUFFLES = {"noshuffle": Blosc.NOSHUFFLE, "bitshuffle": Blosc.BITSHUFFLE}


def compression(dtype: DTypeLike) -> Compression:
    """Choose by the type of values: LZ4 takes numbers whose bits are shuffled at a third of the time of zstd.

    Maps are 5 per cent larger by it, and are read at twice the speed.
    """
    return Compression("zstd", 1, "noshuffle") if dtype == TEXT else Compression("lz4", 5, "bitshuffle")


def encode_chunk(chunk: NDArray[Any]) -> bytes:
    """Bytes in C order, little-endian, of texts as Zarr's ``vlen-utf8``; compressed by Blosc."""
    name, level, shuffle = compression(chunk.dtype)
    if chunk.dtype == TEXT:
        chunk = VLenUTF8().encode(chunk.astype(object).ravel())
    else:
        chunk = np.ascontiguousarray(chunk, dtype=chunk.dtype.newbyteorder("<"))
    encoded: bytes = Blosc(name, level, _SHUFFLES[shuffle]).encode(chunk)
    return encoded


def encode_shard(shard: NDArray[Any], chunk: Sequence[int]) -> bytes:
    """Encode an array that is cut into chunks of shape `chunk`, which divides its shape."""
    counts = [size // part for size, part in zip(shard.shape, chunk, strict=True)]
    places = product(*map(range, counts))
    return join_chunks([encode_chunk(shard[chunk_at(place, chunk)]) for place in places])


def chunk_at(place: Sequence[int], chunk: Sequence[int]) -> tuple[slice, ...]:
    """Find the chunk with a number along each axis."""
    return tuple(slice(at * side, (at + 1) * side) for at, side in zip(place, chunk, strict=True))


def join_chunks(chunks: Sequence[bytes]) -> bytes:
    """Join the encoded chunks of a shard, in C order, and index them."""
    sizes = np.array([len(chunk) for chunk in chunks], "<u8")
    offsets = np.array([0, *accumulate(sizes[:-1].tolist())], "<u8")
    places = np.stack([offsets, sizes], axis=1).tobytes()
    checksum = google_crc32c.value(places).to_bytes(4, "little")
    return b"".join([*chunks, places, checksum])


def split_chunks(data: bytes, count: int) -> list[memoryview]:
    """Undo `join_chunks`; nothing is copied."""
    view = memoryview(data)
    index = np.frombuffer(view[-16 * count - 4 : -4], "<u8").reshape(-1, 2)
    return [view[offset : offset + length] for offset, length in index.tolist()]


def decode_chunk(data: bytes | memoryview, shape: Sequence[int], dtype: DTypeLike) -> NDArray[Any]:
    """Undo `encode_chunk`."""
    decoded = Blosc().decode(data)
    if dtype == TEXT:
        return VLenUTF8().decode(decoded).astype(TEXT).reshape(shape)
    return np.frombuffer(decoded, np.dtype(dtype).newbyteorder("<")).reshape(shape).astype(dtype)


def decode_shard(
    data: bytes, shape: Sequence[int], chunk: Sequence[int], dtype: DTypeLike, rows: Sequence[int] | None = None
) -> NDArray[Any]:
    """Undo `encode_shard`, of some places along the first axis, where a chunk has one, or of all."""
    counts = [size // part for size, part in zip(shape, chunk, strict=True)]
    chunks = split_chunks(data, math.prod(counts))
    wanted = range(counts[0]) if rows is None else rows
    whole = np.empty((len(wanted) * chunk[0], *shape[1:]), dtype)
    each = math.prod(counts[1:])
    for number, row in enumerate(wanted):
        places = product([number], *map(range, counts[1:]))
        for place, encoded in zip(places, chunks[row * each : (row + 1) * each], strict=True):
            whole[chunk_at(place, chunk)] = decode_chunk(encoded, chunk, dtype)
    return whole


def pad(values: NDArray[Any], shape: Sequence[int], fill: float | str) -> NDArray[Any]:
    """Fill up at the end of each axis: Zarr's chunks are whole, also where the array ends."""
    if values.shape == tuple(shape):
        return values
    widths = [(0, whole - size) for whole, size in zip(shape, values.shape, strict=True)]
    return np.pad(values, widths, constant_values=np.array(fill, values.dtype))
