"""Sorting of many numbers: torch sorts whole numbers of one axis by their digits, ten times faster than floats."""

import torch
from torch import Tensor

_WHOLE = {torch.float32: torch.int32, torch.float64: torch.int64}
_BY_DIGITS = 2**15
"""The length of a row from which on torch sorts by digits."""


def stable_order(values: Tensor, *, descending: bool = False) -> Tensor:
    """Find the order of the last axis in which values rise, or fall; equal ones stay as they stand.

    Parameters
    ----------
    values
        ``(..., place)``, whole numbers or floats; NaN are put at the ends.

    Returns
    -------
    Tensor
        ``(..., place)``, indices in int64.
    """
    is_short = values.shape[-1] < _BY_DIGITS or not values.numel()
    if values.device.type != "cpu" or is_short or values.dtype not in {*_WHOLE, *_WHOLE.values()}:
        return values.argsort(dim=-1, descending=descending, stable=True)
    keys = _keys(values) if values.is_floating_point() else values
    rows = (~keys if descending else keys).reshape(-1, values.shape[-1])
    return torch.stack([row.argsort(stable=True) for row in rows]).view(values.shape)


def _keys(values: Tensor) -> Tensor:
    """Take floats to whole numbers of the same order: their bits, but that those below zero are turned round."""
    whole = _WHOLE[values.dtype]
    bits = (values + 0.0).view(whole)  # which makes -0.0 the same as 0.0
    return bits ^ ((bits >> (8 * values.element_size() - 1)) & torch.iinfo(whole).max)
