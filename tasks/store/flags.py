"""Flags of the store in words, for those who count them and those who show them."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.flags import in_words


def raised(name: str, flags: Mapping[str, int], values: NDArray[Any]) -> dict[str, NDArray[np.bool_]]:
    """Tell of each flag in words, such as "map blank", whether it is raised anywhere in each row.

    Parameters
    ----------
    name
        Name of the output, such as ``map_flags``.
    flags
        By name of the flag, its bit.
    values
        ``(row, ...)``.
    """
    rows = values.reshape(len(values), -1)
    return {words: np.any(rows & bit, axis=1) for words, bit in in_words(name, flags).items()}


def flags_in(variable: xr.DataArray) -> dict[str, int]:
    """Read the flags of a stored array from its attributes: by name, the bit."""
    masks = np.atleast_1d(variable.attrs["flag_masks"]).tolist()
    return dict(zip(variable.attrs["flag_meanings"].split(), masks, strict=True))
