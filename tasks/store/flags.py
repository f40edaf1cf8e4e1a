"""Flags of the store in words, for those who count them and those who show them."""

from collections.abc import Mapping
from enum import IntFlag
from typing import Any

import numpy as np
from numpy.typing import NDArray

from models.flags import ImageFlag, MapFlag

KINDS: dict[str, type[IntFlag]] = {"image_flags": ImageFlag, "map_flags": MapFlag}
"""The flags that each variable of the store holds."""


def raised(flags: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.bool_]]:
    """For each flag in words, such as "map blank": whether it is raised anywhere in each row of its variable.

    Parameters
    ----------
    flags
        By variable: ``(row, ...)``; what holds no flags is left alone.
    """
    found = {}
    for variable in (known for known in KINDS if known in flags):
        rows = flags[variable].reshape(len(flags[variable]), -1)
        for name, flag in KINDS[variable].__members__.items():
            in_words = f"{variable.removesuffix('_flags')} {name.lower().replace('_', ' ')}"
            found[in_words] = np.any(rows & flag, axis=1)
    return found
