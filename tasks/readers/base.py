"""What a reader gives."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


class Unreadable(Exception):
    """An image that cannot be read. The message is the quarantine reason: what is wrong and what to do."""


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes
    ----------
    pixels
        ``(channel, *space)`` float32 with space ([z,] y, x), in the file's own units.
    affine
        ``(4, 4)`` index (z, y, x) to RAS mm; None where the format has no patient geometry.
    """

    pixels: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
