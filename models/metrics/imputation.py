"""Imputation: places of an image are filled in from the places around them."""

from dataclasses import dataclass
from functools import partial
from math import prod
from typing import Self

import torch
from torch import Tensor
from torch.nn import functional

_MOST_ITERATIONS = 1000

_AT_ONCE = 2**18
"""The number of places that a CPU's cache holds with all that is computed of them: with more it takes twice as long."""


def impute(images: Tensor, hidden: Tensor, tolerance: float = 3e-3) -> Tensor:
    """Give each hidden place the weighted mean of its neighbours, which may be hidden as well.

    This gives one linear system for each image. Neighbours count by one over the square of their distance, diagonal
    ones included: in 2-D the weights are 1/6 and 1/12, as in Rong et al. (2022, arXiv:2202.00449). Places beyond the
    edge do not count.

    Parameters
    ----------
    images
        ``(image, channel, *space)``.
    hidden
        ``(image, 1, *space)`` bool. Where all of an image is hidden, it becomes 0.
    tolerance
        The residual's norm at which the solution ends, as a share of the norm of the right-hand side. By default the
        error, in the root mean square over hidden places, is less than a quarter of the noise that ROAD adds.
    """
    known = (~hidden).to(images).expand(images.shape).reshape(-1, 1, *images.shape[2:])
    values = images.reshape(known.shape) * known
    # The residual is told by the norm of the image, in which a brightness that all places share would drown the rest.
    axes = tuple(range(1, known.ndim))
    shared = values.sum(axes, keepdim=True) / known.sum(axes, keepdim=True).clamp_min(1)
    values = (values - shared) * known
    # Squares of very small and very large numbers are none: the largest becomes 1.
    largest = values.abs().amax(axes, keepdim=True)
    values /= largest.where(largest > 0, 1.0)
    rows = len(known) if known.is_cuda else max(_AT_ONCE // prod(known.shape[2:]), 1)
    filled = torch.cat(list(map(partial(_solve, tolerance=tolerance), values.split(rows), known.split(rows))))
    return images.where(~hidden, (filled * largest + shared).view(images.shape))


def _solve(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Fill in where `known` is 0; both are ``(image, 1, *space)``.

    It is done by flexible conjugate gradients (Notay 2000, doi:10.1137/S1064827599362314), with a cycle over grids of
    half the places a side each as preconditioner.
    """
    grid = _Grid.of(known)
    if grid is None:
        return values

    def dot(one: Tensor, other: Tensor) -> Tensor:
        products: Tensor = torch.linalg.vecdot(one.flatten(1), other.flatten(1))
        return products.view(-1, *[1] * (known.ndim - 1))

    residual = grid.free * _around(values)
    solution, direction, image = (torch.zeros_like(values) for _ in range(3))
    curvature = torch.ones_like(dot(residual, residual))
    enough = tolerance**2 * dot(residual, residual)
    for _ in range(_MOST_ITERATIONS):
        active = dot(residual, residual) > enough
        if not active.any():
            break
        correction = grid.correction(residual)
        along = torch.where(active, dot(correction, image) / curvature, 0.0)
        direction = correction.addcmul_(along, direction, value=-1)
        image = grid.applied(direction)
        curvature = dot(direction, image)
        step = torch.where(active, dot(direction, residual) / curvature, 0.0)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
    return values + solution


@dataclass(frozen=True)
class _Grid:
    """The linear systems of some images: ``degree * x - neighbours(x)`` at hidden places, and x = 0 elsewhere.

    Attributes
    ----------
    free
        ``(image, 1, *space)``, 1 at hidden places.
    degree
        ``(1, 1, *space)``, the sum of the weights of a place's neighbours.
    coarser
        The systems on half the places a side, where a place is hidden if all that it stands for are; None if none is,
        or if the grid is of one place.
    """

    free: Tensor
    degree: Tensor
    inverse: Tensor
    coarser: Self | None

    @classmethod
    def of(cls, known: Tensor) -> Self | None:
        if known.all() or max(known.shape[2:]) == 1:
            return None
        free, degree = 1 - known, _around(torch.ones_like(known[:1]))
        return cls(free, degree, free / degree, cls.of((_halved(known) > 0).to(known)))

    def applied(self, parts: Tensor) -> Tensor:
        return (self.degree * parts).addcmul_(self.free, _around(parts), value=-1)

    def correction(self, residual: Tensor) -> Tensor:
        """Solve nearly: sweeps by Jacobi make the error smooth, and what is smooth is solved on the coarser grid."""
        found = self.inverse * residual
        if self.coarser is not None:
            left = _around(found).mul_(self.free)
            # The sum over neighbours stands for second differences, which are 4 times as large at twice the distance.
            smooth = self.coarser.correction(_halved(left).mul_(self.coarser.free).mul_(4))
            found.addcmul_(self.free, _doubled(smooth, found.shape[2:]))
        for _ in range(2):
            found = _around(found).add_(residual).mul_(self.inverse)
        return found


def _around(parts: Tensor) -> Tensor:
    """Sum the neighbours of each place of ``(image, 1, *space)``, weighted.

    ``N_a`` is the sum of both neighbours along an axis. A product of k such sums is the sum over the neighbours at the
    squared distance k, so that the result is ``sum_a N_a + sum_{a<b} N_a N_b / 2 + N_1 N_2 N_3 / 3``. It is factored:
    in 2-D two sums are taken, ``N_2 + N_1 (1 + N_2 / 2)``, and in 3-D four. A convolution of one channel takes longer.
    """
    last = _add_both(torch.zeros_like(parts), parts, -1)
    one = torch.add(parts, last, alpha=1 / 2)
    if parts.ndim == 4:
        return _add_both(last, one, 2)
    two = (parts / 2).add_(last, alpha=1 / 3)
    return _add_both(_add_both(last, one, 3), _add_both(one, two, 3), 2)


def _add_both(total: Tensor, parts: Tensor, axis: int) -> Tensor:
    """Add both neighbours along an axis to `total`, in place."""
    size = parts.shape[axis]
    total.narrow(axis, 1, size - 1).add_(parts.narrow(axis, 0, size - 1))
    total.narrow(axis, 0, size - 1).add_(parts.narrow(axis, 1, size - 1))
    return total


def _halved(parts: Tensor) -> Tensor:
    """Average each two places along each axis; a last one by itself stays. Pooling by torch takes 7 times longer."""
    for axis in range(parts.ndim - 1, 1, -1):
        size = parts.shape[axis]
        if size % 2:
            parts = torch.cat([parts, parts.narrow(axis, size - 1, 1)], axis)
        first, second = parts.unflatten(axis, (-1, 2)).unbind(axis + 1)
        parts = torch.lerp(first, second, 0.5)
    return parts


def _doubled(parts: Tensor, shape: torch.Size) -> Tensor:
    """Repeat each place along each axis, up to `shape`."""
    doubled = functional.interpolate(parts, scale_factor=2)
    for axis, size in enumerate(shape, start=2):
        doubled = doubled.narrow(axis, 0, size)
    return doubled
