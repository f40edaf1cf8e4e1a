"""Places of an image filled in from those around them."""

from itertools import product

import torch
from torch import Tensor
from torch.nn import functional

_CONV = {2: functional.conv2d, 3: functional.conv3d}
_MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MOST_ITERATIONS = 1000


def impute(images: Tensor, hidden: Tensor, tolerance: float = 1e-3) -> Tensor:
    """Give each hidden place the weighted mean of its neighbours, which may be hidden as well.

    That is a linear system an image; all are solved together by conjugate gradients, from a first guess by coarser and
    coarser grids. Neighbours count by one over the square of their distance, diagonal ones included: in 2-D these are
    the weights 1/6 and 1/12 of Rong et al. (2022, arXiv:2202.00449, section 4.1). Those beyond the edge do not count.

    Parameters
    ----------
    images
        ``(image, channel, *space)``.
    hidden
        ``(image, 1, *space)`` bool. Some place of each image is not hidden.
    tolerance
        Where the solution ends: the residual's norm, as a share of that of the right-hand side.
    """
    known = (~hidden).to(images).expand(images.shape).reshape(-1, 1, *images.shape[2:])
    return _solve(images.reshape(known.shape) * known, known, tolerance).view(images.shape)


def _solve(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Fill in where `known` is 0; both are ``(image, 1, *space)``."""
    dims = values.ndim - 2
    if known.all() or max(values.shape[2:]) == 1:
        return values
    kernel = _neighbours(dims).to(values)
    free = 1 - known

    def around(part: Tensor) -> Tensor:
        return _CONV[dims](part, kernel, padding=1)

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).view(-1, *[1] * (dims + 1))

    degree = around(torch.ones_like(known[:1]))
    right = free * around(values)
    solution = free * _coarsely(values, known, tolerance)
    residual = right - free * (degree * solution - around(solution))
    direction, squared = residual, dot(residual, residual)
    enough = tolerance**2 * dot(right, right)
    for _ in range(_MOST_ITERATIONS):
        active = squared > enough
        if not active.any():
            break
        image = free * (degree * direction - around(direction))
        step = torch.where(active, squared / dot(direction, image), 0.0)
        solution = solution + step * direction
        residual = residual - step * image
        before, squared = squared, dot(residual, residual)
        direction = residual + torch.where(active, squared / before, 0.0) * direction
    return values + solution


def _neighbours(dims: int) -> Tensor:
    weights = torch.zeros([3] * dims)
    for offset in product((-1, 0, 1), repeat=dims):
        squared = sum(step**2 for step in offset)
        weights[tuple(step + 1 for step in offset)] = 1 / squared if squared else 0.0
    return (weights / weights.sum())[None, None]


def _coarsely(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """The solution on a grid of half the places a side, interpolated: most of the way, for little."""
    dims = known.ndim - 2
    two = [min(size, 2) for size in known.shape[2:]]
    share, total = (_MEAN[dims](part, two, ceil_mode=True, count_include_pad=False) for part in (known, values))
    there = (share > 0).to(known)
    coarse = _solve(total / share.where(share > 0, 1.0), there, tolerance)
    mode = "bilinear" if dims == 2 else "trilinear"
    return functional.interpolate(coarse, known.shape[2:], mode=mode, align_corners=False)
