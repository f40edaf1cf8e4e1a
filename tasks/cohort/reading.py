"""What a reader gives, and what it is allowed to take."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MOST_FRAMES = 2**14
"""Frames or pages of one file: more than any volume has, and each takes time of its own."""

LARGEST = 2 * 2**30
"""What the pixels of an image may take as float32 unless told otherwise: 512 x 512 x 2000."""

_LARGEST_STORED = 2
"""Bytes of a file for each of its pixels as float32: no stored value has more than eight."""


_HEADERS = 16 * 2**20
"""Bytes that a file may hold beside its pixels."""


class Unreadable(Exception):
    """An image that cannot be read. The message is the quarantine reason: what is wrong and what to do.

    It is kept and shown, so it is in words of our own and holds nothing of the file but sizes and numbers: no path, no
    bytes, no attribute, and no message of a library, which may quote any of these.
    """


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


class Window(BaseModel):
    """A fixed window, in the units after rescaling (HU for CT)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    center: float
    width: float = Field(gt=0)


WindowConfig = Literal["none", "file"] | Window


def check_file(size: int, largest: int) -> None:
    """Check the size of a file in bytes before it is read.

    Raises
    ------
    Unreadable
        If no image whose pixels take `largest` bytes as float32 would need that many.
    """
    needed = _LARGEST_STORED * largest + _HEADERS
    if size > needed:
        raise Unreadable(
            f"the file has {_shown(size)}, and an image of at most {_shown(largest)} (cohort.largest_image) needs no "
            f"more than {_shown(needed)}: raise the bound, or leave the file out"
        )


def check_decoded(size: int, largest: int) -> None:
    """Check what the pixels of an image will take as float32, in bytes, before they are decoded.

    Raises
    ------
    Unreadable
        If it is more than `largest`.
    """
    if size > largest:
        raise Unreadable(
            f"the image declares pixels of {_shown(size)} as float32, and cohort.largest_image is {_shown(largest)}: "
            "mend or leave out the file, or raise the bound"
        )


def check_frames(frames: int) -> None:
    """Check how many frames or pages a file declares.

    Raises
    ------
    Unreadable
        If it is more than any volume has, or less than one.
    """
    if not 1 <= frames <= MOST_FRAMES:
        raise Unreadable(f"the file declares {frames} frames: 1 to {MOST_FRAMES} are read")


def check_length(declared: int, held: int) -> None:
    """Check that a file holds the bytes of pixels that it declares.

    Raises
    ------
    Unreadable
        If it holds less.
    """
    if held < declared:
        raise Unreadable(
            f"damaged: the file declares pixels of {declared} bytes and holds {held}; copy it again from its source"
        )


def _shown(size: int) -> str:
    return f"{size} bytes" if size < 2**20 else f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
