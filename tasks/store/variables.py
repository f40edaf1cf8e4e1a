"""The arrays of the store: what is declared, with its sides, and how it is cut into objects."""

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from models.outputs import EXPLAINER, SPACE, Output, shape_of
from tasks.plan.plan import Plan
from tasks.plan.shards import object_rows

Block = dict[str, NDArray[Any]]
"""By variable: the rows of it that belong to a shard, or the whole of it where it has no `image_id`."""


class Variable(NamedTuple):
    """One array of the store, or the stretch of it along `explainer` that one part of the plan holds.

    Attributes
    ----------
    shape
        Sides without `image_id`.
    first
        Place along `explainer` where the stretch begins.
    """

    output: Output
    shape: tuple[int, ...]
    first: int = 0

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.output.array_type

    @property
    def itemsize(self) -> int:
        return self.output.value_bytes


class Layout(NamedTuple):
    """The sides of an object, and of the chunks in it; None: the object is one chunk."""

    shape: tuple[int, ...]
    chunk: tuple[int, ...] | None


def variables(plan: Plan, outputs: Iterable[Output], first: int = 0) -> dict[str, Variable]:
    """Give declared outputs their sides."""
    return {output.name: Variable(output, shape_of(output, plan.frame), first) for output in outputs}


def part_variables(plan: Plan, part: int) -> dict[str, Variable]:
    """The arrays, or the stretches of them along `explainer`, that one part of every shard holds."""
    first = sum(len(before.maps) for before in plan.parts[:part])
    return variables(plan, plan.parts[part].outputs, first)


def layout(plan: Plan, variable: Variable) -> Layout:
    """Say how an array is cut into objects and chunks: a chunk is one picture or volume.

    An object's shape is cut so that it stays under the limit, and holds whole chunks. Of what explainers store it holds
    one explainer alone, so that others can be added beside it; a small array that is computed later, at once for all
    explainers, is one object a shard.
    """
    output, shape, itemsize = variable.output, variable.shape, variable.itemsize
    if not output.per_image:
        return Layout(object_rows((1, *shape), itemsize)[1:], None)
    spatial = [dim in SPACE for dim in output.own_dims]
    is_delivered = any(axis.name == EXPLAINER for axis in output.axes)
    if not any(spatial) and not is_delivered:
        return Layout(object_rows((plan.images_per_shard, *shape), itemsize), None)
    alone = (1 if dim == EXPLAINER else size for dim, size in zip(output.own_dims, shape, strict=True))
    sides = object_rows((plan.images_per_shard, *alone), itemsize)
    if not any(spatial):
        return Layout(sides, None)
    return Layout(sides, (1, *(size if is_space else 1 for size, is_space in zip(sides[1:], spatial, strict=True))))


def empty_block(described: Mapping[str, Variable], rows: int) -> Block:
    """Make arrays that hold the fill value of each variable: of `rows` images, or whole."""
    return {
        name: np.full(
            (rows, *variable.shape) if variable.output.per_image else variable.shape,
            variable.output.fill_value,
            dtype=variable.dtype,
        )
        for name, variable in described.items()
    }
