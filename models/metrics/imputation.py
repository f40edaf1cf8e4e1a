"""Imputation: places of an image are filled in from the places around them."""

import torch
from torch import Tensor
from torch.nn import functional

_MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_MOST_ITERATIONS = 1000


def impute(images: Tensor, hidden: Tensor, tolerance: float = 3e-3) -> Tensor:
    """Give each hidden place the weighted mean of its neighbours, which may be hidden as well.

    This gives one linear system for each image. All are solved together by conjugate gradients, which start from the
    solution on a coarser grid. Neighbours count by one over the square of their distance, diagonal ones included: in
    2-D the weights are 1/6 and 1/12, as in Rong et al. (2022, arXiv:2202.00449). Places beyond the edge do not count.

    Parameters
    ----------
    images
        ``(image, channel, *space)``.
    hidden
        ``(image, 1, *space)`` bool. Some place of each image is not hidden.
    tolerance
        The residual's norm at which the solution ends, as a share of the norm of the right-hand side. By default the
        error is less than the noise that ROAD adds.
    """
    known = (~hidden).to(images).expand(images.shape).reshape(-1, 1, *images.shape[2:])
    return _solve(images.reshape(known.shape) * known, known, tolerance).view(images.shape)


def _solve(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Fill in where `known` is 0; both are ``(image, 1, *space)``."""
    dims = values.ndim - 2
    if known.all() or max(values.shape[2:]) == 1:
        return values
    free = 1 - known

    def dot(one: Tensor, other: Tensor) -> Tensor:
        return (one * other).flatten(1).sum(1).view(-1, *[1] * (dims + 1))

    degree = _around(torch.ones_like(known[:1]))
    right = free * _around(values)
    solution = free * _coarsely(values, known, tolerance)
    residual = right - free * (degree * solution - _around(solution))
    direction, squared = residual.clone(), dot(residual, residual)
    enough = tolerance**2 * dot(right, right)
    for _ in range(_MOST_ITERATIONS):
        active = squared > enough
        if not active.any():
            break
        image = free * (degree * direction - _around(direction))
        step = torch.where(active, squared / dot(direction, image), 0.0)
        solution.addcmul_(step, direction)
        residual.addcmul_(step, image, value=-1)
        before, squared = squared, dot(residual, residual)
        direction = torch.addcmul(residual, torch.where(active, squared / before, 0.0), direction)
    return values + solution


def _around(parts: Tensor) -> Tensor:
    """Sum the neighbours of each place of ``(image, 1, *space)``, weighted.

    ``N_a`` is the sum of both neighbours along an axis. A product of k such sums is the sum over the neighbours at the
    squared distance k, so that the result is ``sum_a N_a + sum_{a<b} N_a N_b / 2 + N_1 N_2 N_3 / 3``. A convolution of
    one channel takes longer.
    """
    products = [parts]  # of k different axes, summed over all choices
    for axis in range(2, parts.ndim):
        further = [_both(part, axis) for part in products]
        products = [products[0], *(one + other for one, other in zip(products[1:], further, strict=False)), further[-1]]
    return torch.stack([part / k for k, part in enumerate(products) if k]).sum(0)


def _both(parts: Tensor, axis: int) -> Tensor:
    size = parts.shape[axis]
    total = torch.zeros_like(parts)
    total.narrow(axis, 1, size - 1).add_(parts.narrow(axis, 0, size - 1))
    total.narrow(axis, 0, size - 1).add_(parts.narrow(axis, 1, size - 1))
    return total


def _coarsely(values: Tensor, known: Tensor, tolerance: float) -> Tensor:
    """Solve on a grid of half the places a side, and interpolate: this comes near the solution at little cost."""
    dims = known.ndim - 2
    two = [min(size, 2) for size in known.shape[2:]]
    share, total = (_MEAN[dims](part, two, ceil_mode=True, count_include_pad=False) for part in (known, values))
    there = (share > 0).to(known)
    coarse = _solve(total / share.where(share > 0, 1.0), there, tolerance)
    mode = "bilinear" if dims == 2 else "trilinear"
    return functional.interpolate(coarse, known.shape[2:], mode=mode, align_corners=False)
