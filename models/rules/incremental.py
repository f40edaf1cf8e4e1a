"""Answers about images that differ from a known one in a box each, for little more than the price of the boxes.

Far from a changed box a convolution gives the same values as for the image as it was (Krypton: Nakandala et al. 2019,
doi:10.1145/3299869.3319874). So a batch goes through the network as `Boxes`: the activation of each image as it was,
and for each row the box that differs, which every operation widens by its reach. Nothing is approximated. Where the box
has grown to most of the activation, or an operation has no rule here, the activation is made whole, and the network
goes on with it as ever.

A rule takes an operation of ATen and its arguments, and returns None where it cannot be sure of the result. ATen has
few operations, and each says whether it looks at one place at a time and which argument it changes in place.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from math import inf, prod
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map_only

from models.network import Network

logger = logging.getLogger(__name__)
aten = torch.ops.aten

# The share of an activation from which on a box costs as much as the whole; from 0.5 to 0.95 it hardly matters.
_MOST = 0.7


@dataclass(frozen=True, eq=False)
class AskBoxes:
    """A way to ask about inputs that differ from the images only in a window of each image and step.

    Attributes
    ----------
    images
        ``(image, channel, *space)`` as they were.
    corners, sides
        ``(image, step, axis)``, the first place and the sides of the window, which may stand over the edge. All windows
        of a batch take the room of the largest.
    """

    images: Tensor
    corners: Tensor
    sides: Tensor

    def __call__(self, network: Network, inputs: Tensor, image: Tensor, step: Tensor) -> Tensor:
        among, known_image = image.unique(return_inverse=True)
        # A known image costs as much as a row, and elsewhere many small operations more than a few large ones.
        if inputs.device.type != "cpu" or 2 * len(among) > len(inputs):
            return network(inputs)
        space = torch.tensor(inputs.shape[2:])
        size = self.sides[image, step].amax(0).minimum(space)
        corners = self.corners[image, step].minimum(space - size)
        boxes = [row[:, *map(slice, corner, corner + size)] for row, corner in zip(inputs, corners, strict=True)]
        known = network.prepare(self.images[among])
        return _whole(network(_handled(Boxes(known, torch.stack(boxes), corners, known_image))))


@dataclass(frozen=True, eq=False)
class Boxes:
    """An activation that differs from a known one in a box of each row.

    Attributes
    ----------
    known
        ``(image, channel, *space)``.
    boxes
        ``(row, channel, *size)``.
    corners
        ``(row, axis)``, the first place of each box.
    image
        ``(row,)``, the number of the known activation that a row differs from.
    """

    known: Tensor
    boxes: Tensor
    corners: Tensor
    image: Tensor

    @property
    def space(self) -> tuple[int, ...]:
        return tuple(self.known.shape[2:])

    @property
    def size(self) -> tuple[int, ...]:
        return tuple(self.boxes.shape[2:])

    @property
    def pays(self) -> bool:
        return prod(self.size) <= _MOST * prod(self.space)

    @property
    def format(self) -> torch.memory_format:
        if self.known.is_contiguous():
            return torch.contiguous_format
        return torch.channels_last if len(self.space) == 2 else torch.channels_last_3d

    def whole(self) -> Tensor:
        return self.cut(torch.zeros_like(self.corners), self.space).contiguous(memory_format=self.format)

    def cut(self, corners: Tensor, size: Sequence[int], fill: float = 0.0) -> Tensor:
        """Cut ``(row, channel, *size)`` out at other corners; places outside of the space hold `fill`."""
        if tuple(size) == self.size and torch.equal(corners, self.corners):
            return self.boxes
        rows, channels = self.boxes.shape[:2]
        tables = [part.movedim(1, -1).reshape(-1, channels) for part in (self.known, self.boxes)]
        table = torch.cat([*tables, self.known.new_full((1, channels), fill)])
        in_known, in_box = self.image, torch.arange(rows)
        is_known = is_box = torch.ones(rows, dtype=torch.bool)
        for axis, side in enumerate(size):
            offsets = torch.arange(side).view(*[1] * (axis + 1), side)
            place = corners[:, axis].view(-1, *[1] * (axis + 1)) + offsets
            inner = place - self.corners[:, axis].view(-1, *[1] * (axis + 1))
            in_known, is_known = _descend(in_known, is_known, place, self.space[axis])
            in_box, is_box = _descend(in_box, is_box, inner, self.size[axis])
        at = torch.where(is_box, len(tables[0]) + in_box, in_known.where(is_known, len(table) - 1))
        return table[at.flatten()].view(rows, *size, channels).movedim(-1, 1)


def _descend(number: Tensor, exists: Tensor, place: Tensor, side: int) -> tuple[Tensor, Tensor]:
    """Take the numbers of rows to those of places in them, and tell whether there are such places."""
    return number[..., None] * side + place, exists[..., None] & (place >= 0) & (place < side)


class _Handled(Tensor):
    """A tensor of the whole activation's shape, for the network to handle; it holds `content`."""

    content: Boxes | Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, content: Boxes) -> "_Handled":
        shape = (len(content.boxes), *content.known.shape[1:])
        strides = torch.empty(shape, device="meta", memory_format=content.format).stride()
        handled: _Handled = Tensor._make_wrapper_subclass(cls, shape, strides, dtype=content.known.dtype)
        handled.content = content
        return handled

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # type: ignore[override]
        rule = _pointwise if torch.Tag.pointwise in func.tags else _RULES.get(func)
        held, named = tree_map_only(_Handled, lambda handled: handled.content, (args, kwargs or {}))
        outcome = rule(func, *held, **named) if rule and _leaves((held, named), Boxes) else None
        if outcome is None:
            held, named = tree_map_only(_Handled, _whole, (args, kwargs or {}))
            found = func(*held, **named)
            if isinstance(found, Tensor) and prod(found.shape[2:]) > 1:
                _tell(str(func))
            return found
        if func._schema.is_mutable:
            args[0].content = outcome if outcome.pays else outcome.whole()
            return args[0]
        return tree_map_only(Boxes, _handled, outcome)


def _handled(content: Boxes) -> Tensor:
    return _Handled(content) if content.pays else content.whole()


@cache
def _tell(operation: str) -> None:
    """Say once a process that what is hidden in boxes is computed in full from an operation on."""
    logger.info(
        "%s has no rule for boxes, or cannot keep to one: from there on activations are computed whole", operation
    )


def _whole(tensor: Tensor) -> Tensor:
    """Make a tensor whole for good, since views of it and operations in place may follow."""
    if not isinstance(tensor, _Handled):
        return tensor
    if isinstance(tensor.content, Boxes):
        tensor.content = tensor.content.whole()
    return tensor.content


def _leaves(tree: Any, kind: type) -> list[Any]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, kind)]


def _place_by_place(func: Any, *args: Any, **kwargs: Any) -> Boxes | None:
    """Apply an operation on single places to the known activations, and to the boxes after they were cut alike."""
    parts = _leaves((args, kwargs), Boxes)
    space, image = parts[0].space, parts[0].image
    if any(part.space != space for part in parts):
        return None
    corners = torch.stack([part.corners for part in parts]).amin(0)
    size = (torch.stack([part.corners + torch.tensor(part.size) for part in parts]).amax(0) - corners).amax(0)
    corners = corners.minimum(torch.tensor(space) - size)
    # All cuts come first, since an operation in place changes the known activations.
    cuts, cuts_named = tree_map_only(Boxes, lambda part: part.cut(corners, size.tolist()), (args, kwargs))
    knowns, knowns_named = tree_map_only(Boxes, lambda part: part.known, (args, kwargs))
    boxes, known = func(*cuts, **cuts_named), func(*knowns, **knowns_named)
    is_map = isinstance(known, Tensor) and known.shape[2:] == space
    return Boxes(known, boxes, corners, image) if is_map else None


def _pointwise(func: Any, *args: Any, **kwargs: Any) -> Boxes | None:
    aliased = [number for number, argument in enumerate(func._schema.arguments) if argument.alias_info]
    in_place = func._schema.is_mutable and aliased == [0] and isinstance(args[0], Boxes)
    dims = _leaves((args, kwargs), Boxes)[0].known.ndim
    others = _leaves((args, kwargs), Tensor)
    if (aliased and not in_place) or not all(_is_uniform(values, dims) for values in others):
        return None
    return _place_by_place(func, *args, **kwargs)


def _is_uniform(values: Tensor, dims: int) -> bool:
    """Tell whether all rows and places of an activation of `dims` axes meet the same values, by channel or not."""
    shape = (1,) * (dims - values.ndim) + values.shape
    return len(shape) == dims and shape[0] == prod(shape[2:]) == 1


def _batch_norm(func: Any, x: Boxes, *args: Any) -> Any:
    *_, training, _, _ = args
    nothing = x.known.new_empty(0)
    return None if training else (_place_by_place(lambda *given: func(*given)[0], x, *args), nothing, nothing)


def _cat(func: Any, parts: Sequence[Any], dim: int = 0) -> Boxes | None:
    return _place_by_place(func, parts, dim) if dim == 1 and all(isinstance(part, Boxes) for part in parts) else None


def _pad(func: Any, x: Boxes, pad: Sequence[int], *value: float) -> Boxes | None:
    dims = len(x.space)
    if min(pad) < 0 or len(pad) > 2 * dims:
        return None
    before = [*pad[::2], *[0] * dims][:dims][::-1]
    return Boxes(func(x.known, pad, *value), x.boxes.clone(), x.corners + torch.tensor(before), x.image)


def _convolution(
    func: Any, x: Any, weight: Any, bias: Any, stride: Any, padding: Any, dilation: Any, transposed: bool, *rest: Any
) -> Boxes | None:
    if transposed or not isinstance(x, Boxes) or isinstance(weight, Boxes):
        return None
    known = func(x.known, weight, bias, stride, padding, dilation, False, *rest)
    corners, starts, sides = _seen(x, known, weight.shape[2:], stride, padding, dilation)
    boxes = func(x.cut(starts, sides), weight, bias, stride, [0], dilation, False, *rest)
    return Boxes(known, boxes, corners, x.image)


def _avg_pool(func: Any, x: Boxes, kernel: Any, stride: Any = (), padding: Any = (0,), *rest: Any) -> Boxes | None:
    ceil_mode, count_padding = (rest + (False, True)[len(rest) :])[:2]
    if ceil_mode or (any(padding) and not count_padding):
        return None
    known = func(x.known, kernel, stride, padding, *rest)
    corners, starts, sides = _seen(x, known, kernel, stride or kernel, padding, [1])
    return Boxes(known, func(x.cut(starts, sides), kernel, stride, [0], *rest), corners, x.image)


def _max_pool(
    func: Any, x: Boxes, kernel: Any, stride: Any = (), padding: Any = (0,), dilation: Any = (1,), *ceil_mode: bool
) -> tuple[Boxes, Boxes]:
    known, known_at = func(x.known, kernel, stride, padding, dilation, *ceil_mode)
    corners, starts, sides = _seen(x, known, kernel, stride or kernel, padding, dilation)
    boxes, within = func(x.cut(starts, sides, -inf), kernel, stride, [0], dilation)
    at, unit = torch.zeros_like(within), 1
    for axis in reversed(range(len(sides))):
        at += (within % sides[axis] + starts[:, axis].view(-1, *[1] * (at.ndim - 1))) * unit
        within, unit = within // sides[axis], unit * x.space[axis]
    return Boxes(known, boxes, corners, x.image), Boxes(known_at, at, corners, x.image)


def _seen(
    x: Boxes, known: Tensor, kernel: Any, stride: Any, padding: Any, dilation: Any
) -> tuple[Tensor, Tensor, list[int]]:
    """Find the corners of the outputs that see a box; and the corners and sides of the inputs that they see."""
    corners, starts, sides = [], [], []
    for axis, (side, outputs) in enumerate(zip(x.size, known.shape[2:], strict=True)):
        width, step, before, apart = (each[axis % len(each)] for each in (kernel, stride, padding, dilation))
        reach = apart * (width - 1)
        count = min((side - 1 + reach) // step + 1, outputs)
        first = -(reach - before - x.corners[:, axis]).div(step, rounding_mode="floor")
        corners.append(first.clamp(0, outputs - count))
        starts.append(corners[-1] * step - before)
        sides.append((count - 1) * step + reach + 1)
    return torch.stack(corners, 1), torch.stack(starts, 1), sides


_RULES: dict[Any, Callable[..., Any]] = {
    aten.convolution.default: _convolution,
    aten.native_batch_norm.default: _batch_norm,
    aten._prelu_kernel.default: _pointwise,
    aten.cat.default: _cat,
    aten.constant_pad_nd.default: _pad,
    aten.avg_pool2d.default: _avg_pool,
    aten.avg_pool3d.default: _avg_pool,
    aten.max_pool2d_with_indices.default: _max_pool,
    aten.max_pool3d_with_indices.default: _max_pool,
}
