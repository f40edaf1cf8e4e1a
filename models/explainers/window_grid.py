"""Windows on a regular grid over an image, of which some are asked about and the others interpolated."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product

import torch
from torch import Tensor

_FLOOR = 0.02
"""The part of the mean square that a drop may have anywhere, so that quiet places are asked about as well."""


@dataclass(frozen=True)
class WindowGrid:
    """Windows of equal sides at a regular grid of starts; those at the far end may stand over the edge.

    A drop is what the score loses without a window. The map of drops is, at each place, the mean over the windows that
    cover it.

    Attributes
    ----------
    starts
        Where windows begin along each axis.
    sides
        The sides of all windows, one an axis.
    shape
        The shape of the image.
    """

    starts: Sequence[range]
    sides: tuple[int, ...]
    shape: tuple[int, ...]

    @property
    def lengths(self) -> tuple[int, ...]:
        return tuple(map(len, self.starts))

    @cached_property
    def corners(self) -> Tensor:
        """The first place of each window, ``(window, axis)``."""
        return torch.tensor(list(product(*self.starts)))

    @cached_property
    def coarse(self) -> Tensor:
        """Tell whether a window is at every second start, or the last, along each axis: ``(window,)``."""
        along = [[at % 2 == 0 or at == length - 1 for at in range(length)] for length in self.lengths]
        return torch.tensor([all(chosen) for chosen in product(*along)])

    def map(self, drops: Tensor) -> Tensor:
        """Lay drops ``(..., window)`` over the image, ``(..., *space)``."""
        return self._along_axes(drops, self._shares).unflatten(-1, self.shape)

    def norm(self, drops: Tensor) -> Tensor:
        """Compute the Euclidean norm of the map of drops ``(..., window)`` without making it."""
        products = [shares @ shares.T for shares in self._shares]
        return (drops * self._along_axes(drops, products)).sum(-1).clamp_min(0).sqrt()

    def interpolated(self, drops: Tensor, asked: Tensor) -> Tensor:
        """Put the mean of both neighbours for drops that were not asked about, along one axis after the other.

        Parameters
        ----------
        drops
            ``(..., window)``.
        asked
            Bool of the same shape, true of all `coarse` windows at least.
        """
        grid, known = (values.unflatten(-1, self.lengths) for values in (drops.clone(), asked.expand_as(drops)))
        for axis in range(-len(self.lengths), 0):
            at, is_known = grid.movedim(axis, -1), known.movedim(axis, -1)[..., 1:-1:2]
            between = (at[..., :-2:2] + at[..., 2::2]) / 2
            at[..., 1:-1:2] = at[..., 1:-1:2].where(is_known, between)
        return grid.flatten(-len(self.lengths))

    def expected(self, drops: Tensor) -> Tensor:
        """Judge by how much interpolation of drops ``(..., window)`` may miss in the map at each window, squared.

        It is the mean square of the drops at the window and its neighbours, and a little of that of all windows, times
        the sum of squares that the window by itself has in a map.
        """
        squares = drops.square()
        around = self._along_axes(squares, self._neighbours)
        own = [shares.square().sum(1).diag() for shares in self._shares]
        return self._along_axes(around + _FLOOR * squares.mean(-1, keepdim=True), own)

    @cached_property
    def _shares(self) -> list[Tensor]:
        """By axis, the weight of each window at each place, ``(start, place)``: one by the number that cover it."""
        shares = []
        for starts, side, size in zip(self.starts, self.sides, self.shape, strict=True):
            first, place = torch.tensor(starts)[:, None], torch.arange(size)
            covers = ((first <= place) & (place < first + side)).double()
            shares.append(covers / covers.sum(0).clamp_min(1))
        return shares

    @cached_property
    def _neighbours(self) -> list[Tensor]:
        """By axis, the matrix that takes the mean over each window and those beside it."""
        near = []
        for length in self.lengths:
            at = torch.arange(length)
            beside = ((at - at[:, None]).abs() <= 1).double()
            near.append(beside / beside.sum(0))
        return near

    def _along_axes(self, drops: Tensor, matrices: Sequence[Tensor]) -> Tensor:
        """Multiply the grid ``(..., window)`` by a matrix ``(start, other)`` along each axis, and flatten it again."""
        grid = drops.unflatten(-1, self.lengths)
        for axis, matrix in zip(range(-len(matrices), 0), matrices, strict=True):
            grid = (grid.movedim(axis, -1) @ matrix.to(grid)).movedim(-1, axis)
        return grid.flatten(-len(matrices))
