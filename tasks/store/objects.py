"""Objects of the store: arrays are cut into them, and put together again. Nobody else writes a part of an object."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.outputs import EXPLAINER, Output
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard
from tasks.storage.location import Location
from tasks.store.encoding import decode_chunk, decode_shard, encode_chunk, encode_shard, pad
from tasks.store.record import StoredObject, problem_with
from tasks.store.rows import Rows, round_mantissa
from tasks.store.variables import Block, Layout, Variable, empty_block, layout, part_variables, variables

NAME = "explanations.zarr"
"""The store's folder in an output."""


class Piece(NamedTuple):
    """An object: the variable it belongs to, its place in the block, and how it is encoded."""

    variable: Variable
    key: str
    within: tuple[slice, ...]
    layout: Layout

    @property
    def name(self) -> str:
        return self.variable.output.name

    def encode(self, block: Block | Rows) -> bytes:
        if isinstance(block, Rows):
            if self.name in block.encoded:
                return block.encoded[self.name].object(self.within)
            block = block.values
        variable, whole = self.variable, block[self.name][self.within]
        if (bits := variable.output.mantissa) is not None:
            whole = round_mantissa(whole, bits)
        whole = pad(whole, self.layout.shape, variable.output.fill_value)
        return encode_shard(whole, self.layout.chunk) if self.layout.chunk else encode_chunk(whole)

    def decode(self, data: bytes, rows: Sequence[int] | None = None) -> NDArray[Any]:
        """Decode the values, of some rows or whole, without what pads them."""
        shape, chunk = self.layout
        if chunk:
            values = decode_shard(data, shape, chunk, self.variable.dtype, rows)
        else:
            values = decode_chunk(data, shape, self.variable.dtype)
            values = values if rows is None else values[list(rows)]
        return values[tuple(slice(None) if at.stop is None else slice(at.stop - at.start) for at in self.within)]


def pieces(plan: Plan, described: Mapping[str, Variable], shard: Shard | None) -> Iterator[Piece]:
    """Cut arrays into objects: the rows of a shard, or, for None, arrays without `image_id`."""
    for variable in described.values():
        output, cut = variable.output, layout(plan, variable)
        sides = cut.shape[1:] if output.per_image else cut.shape
        counts = [-(-size // side) for size, side in zip(variable.shape, sides, strict=True)]
        for place in product(*map(range, counts)):
            within = tuple(
                slice(at * side, min((at + 1) * side, size))
                for at, side, size in zip(place, sides, variable.shape, strict=True)
            )
            first = variable.first
            where = [at + first * (dim == EXPLAINER) for at, dim in zip(place, output.own_dims, strict=True)]
            if output.per_image:
                assert shard is not None
                where, within = [shard.index, *where], (slice(None), *within)
            yield Piece(variable, "/".join([output.name, "c", *map(str, where)]), within, cut)


def write(folder: Location, cut: Iterable[Piece], block: Block | Rows) -> dict[str, StoredObject]:
    """Store every object whole; return what was stored, by key."""
    objects: dict[str, StoredObject] = {}
    for piece in cut:
        data = piece.encode(block)
        (folder / piece.key).write(data)
        objects[piece.key] = StoredObject.of(data)
    return objects


def read(output: Location, cut: Iterable[Piece], promised: Mapping[str, StoredObject]) -> dict[str, bytes] | None:
    """Read the objects that a record speaks of; None if any is missing or damaged.

    Raises
    ------
    Unavailable
        If storage does not answer.
    """
    keys = [piece.key for piece in cut]
    found = output.read_all([(output / NAME / key).url for key in keys])
    if any(problem_with(promised.get(key), data) for key, data in zip(keys, found, strict=True)):
        return None
    return {key: data for key, data in zip(keys, found, strict=True) if isinstance(data, bytes)}


def assemble(
    described: Mapping[str, Variable], cut: Iterable[Piece], objects: Mapping[str, bytes], rows: Sequence[int] = ()
) -> Block:
    """Put objects together: some rows of each variable, or the whole of one without `image_id`."""
    block = empty_block(described, len(rows))
    for piece in cut:
        values = piece.decode(objects[piece.key], rows if piece.variable.output.per_image else None)
        block[piece.name][piece.within] = values
    return block


def refill(rows: Rows, kept: Collection[int], cut: Iterable[Piece], objects: Mapping[str, bytes]) -> None:
    """Take some rows from objects that were stored before."""
    places = sorted(kept)
    for piece in cut:
        if piece.name in rows.encoded:
            rows.encoded[piece.name].take(kept, piece.within, objects[piece.key])
        else:
            rows.values[piece.name][piece.within][places] = piece.decode(objects[piece.key], places)


def part_pieces(plan: Plan, shard: Shard, part: int) -> list[Piece]:
    return list(pieces(plan, part_variables(plan, part), shard))


class Stored(NamedTuple):
    """The objects of a shard as they are stored; rows are decoded when they are asked for."""

    parts: tuple[tuple[Mapping[str, Variable], Sequence[Piece], Mapping[str, bytes]], ...]

    def rows(self, rows: Sequence[int]) -> Block:
        """Decode some rows, maps of all explainers together."""
        found = Block()
        for described, cut, objects in self.parts:
            for name, values in assemble(described, cut, objects, rows).items():
                axis = described[name].output.dims.index(EXPLAINER) if name in found else 0
                found[name] = np.concatenate([found[name], values], axis=axis) if name in found else values
        return found


def open_shard(
    output: Location, plan: Plan, shard: Shard, promised: Mapping[str, StoredObject], names: Iterable[str]
) -> Stored:
    """Read the objects of some outputs of a delivered shard.

    Parameters
    ----------
    promised
        What the records of the shard speak of, by key.

    Raises
    ------
    OSError
        If any of the objects is missing or damaged.
    """
    wanted, found = set(names), []
    parts = (part_variables(plan, part) for part in range(len(plan.parts)))
    for all_described in (*parts, *(variables(plan, one.outputs) for one in (*plan.evaluated, *plan.results))):
        described = {name: variable for name, variable in all_described.items() if name in wanted}
        cut = list(pieces(plan, described, shard))
        objects = read(output, cut, promised)
        if objects is None:
            raise OSError(f"shard {shard.index} of {output} is damaged: `cohortlens verify --repair` mends it")
        found.append((described, cut, objects))
    return Stored(tuple(found))


def read_shard(
    output: Location, plan: Plan, shard: Shard, promised: Mapping[str, StoredObject], names: Iterable[str]
) -> Block:
    """Read outputs of a delivered shard whole; `open_shard` says how."""
    return open_shard(output, plan, shard, promised, names).rows(range(shard.images))


def read_whole(
    output: Location, plan: Plan, outputs: Iterable[Output], promised: Mapping[str, StoredObject]
) -> Block | None:
    """Read arrays without `image_id`; None if anything is missing or damaged."""
    described = variables(plan, outputs)
    cut = list(pieces(plan, described, None))
    objects = read(output, cut, promised)
    return None if objects is None else assemble(described, cut, objects)
