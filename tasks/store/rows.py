"""Rows on their way into the objects of a shard: pictures and volumes are encoded as they come, all else waits.

Encoded, maps take half of their memory or less, and they are encoded while the processor's cache still holds them.
"""

from collections.abc import Collection, Mapping
from functools import cached_property
from itertools import product
from typing import Any

import numpy as np
import torch
from numcodecs.bitround import BitRound
from numpy.typing import ArrayLike, NDArray

from tasks.plan.plan import Plan
from tasks.store.encoding import chunk_at, encode_chunk, join_chunks, pad, split_chunks
from tasks.store.variables import Block, Variable, empty_block, layout

_BFLOAT16 = 7
"""The bits of mantissa that bfloat16 has."""


class EncodedRows:
    """The rows of an array whose chunks are a picture or volume each.

    Parameters
    ----------
    shape, chunk
        The sides of an object, and of a chunk of it.
    """

    def __init__(self, variable: Variable, shape: tuple[int, ...], chunk: tuple[int, ...]) -> None:
        self._variable, self._shape, self._chunk = variable, shape, chunk
        self._chunks: dict[tuple[int, ...], bytes] = {}

    def __setitem__(self, row: int, values: ArrayLike) -> None:
        output, sides = self._variable.output, self._chunk[1:]
        whole = np.asarray(values, output.array_type)
        if output.mantissa is not None:
            whole = round_mantissa(whole, output.mantissa)
        counts = (-(-size // side) for size, side in zip(whole.shape, sides, strict=True))
        for place in product(*map(range, counts)):
            part = pad(whole[chunk_at(place, sides)], sides, output.fill_value)
            self._chunks[row, *place] = encode_chunk(part)

    def take(self, rows: Collection[int], within: tuple[slice, ...], data: bytes) -> None:
        """Take some rows from an object that was stored before."""
        places = self._places(within)
        for place, chunk in zip(places, split_chunks(data, len(places)), strict=True):
            if place[0] in rows:
                self._chunks[place] = bytes(chunk)

    def object(self, within: tuple[slice, ...]) -> bytes:
        """Encode the object at a place in the rows; those that were not put have the fill value."""
        return join_chunks([self._chunks.get(place) or self._blank for place in self._places(within)])

    @cached_property
    def _blank(self) -> bytes:
        return encode_chunk(np.full(self._chunk, self._variable.output.fill_value, self._variable.dtype))

    def _places(self, within: tuple[slice, ...]) -> list[tuple[int, ...]]:
        """The numbers of an object's chunks along each axis, in the object's order."""
        starts = [(at.start or 0) // side for at, side in zip(within, self._chunk, strict=True)]
        counts = [size // side for size, side in zip(self._shape, self._chunk, strict=True)]
        return [*product(*(range(start, start + count) for start, count in zip(starts, counts, strict=True)))]


class Rows:
    """The rows of some arrays of a shard, until they are written.

    Attributes
    ----------
    described
        The arrays.
    values
        Those that are not pictures or volumes, whole.
    encoded
        The others.
    """

    def __init__(self, plan: Plan, described: Mapping[str, Variable], count: int) -> None:
        self.described = described
        layouts = {name: layout(plan, variable) for name, variable in described.items()}
        self.values: Block = empty_block(
            {name: described[name] for name, cut in layouts.items() if not cut.chunk}, count
        )
        self.encoded = {
            name: EncodedRows(described[name], cut.shape, cut.chunk) for name, cut in layouts.items() if cut.chunk
        }

    def put(self, row: int, values: Mapping[str, NDArray[Any]]) -> None:
        """Put what was found of an image, as far as it is stored here."""
        for name in values.keys() & self.values.keys():
            self.values[name][row] = values[name]
        for name in values.keys() & self.encoded.keys():
            self.encoded[name][row] = values[name]


def round_mantissa(values: NDArray[np.float32], bits: int) -> NDArray[np.float32]:
    """Round float32 to some bits of mantissa, half to even; for 7 bits a relative error of at most 2**-8.

    Maps are noise below that; rounded, they compress like 16 bits while every reader still sees float32.
    """
    whole = np.ascontiguousarray(values)
    if bits == _BFLOAT16:  # by another way, in a tenth of the time
        rounded = torch.from_numpy(whole).bfloat16().float().numpy()
    else:
        rounded = BitRound(bits).encode(whole).view(np.float32).reshape(values.shape)
    finite = np.isfinite(values)
    return rounded if finite.all() else np.where(finite, rounded, values)
