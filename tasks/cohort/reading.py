"""The terms between readers and those who ask them: what a reader is asked, gives, refuses and may take.

The readers themselves are in `tasks.cohort.readers`. This module imports none of the libraries that decode images, so
that a configuration can be checked, and a plan be read, without them.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

MOST_FRAMES = 2**14
"""A file may have this many frames or pages: no volume has more, and each takes time of its own."""

LARGEST = 2 * 2**30
"""The pixels of an image may take this many bytes as float32, unless told otherwise: 512 x 512 x 2000 of them."""

_LARGEST_STORED = 2
"""A file may be larger than its pixels as float32 by this factor: no stored value has more than eight bytes."""

_HEADERS = 16 * 2**20
"""A file may hold this many bytes beside its pixels."""


class Unreadable(Exception):
    """An image cannot be read. The message is the quarantine reason: it says what is wrong and what to do.

    It is kept and shown, so it is in words of our own and holds nothing of the file but sizes and numbers: no path, no
    bytes, no attribute, and no message of a library, which may quote any of these.
    """


class NoImage(Unreadable):
    """A file is no image, as a report among the slices of a series is none; a damaged image is one."""


@dataclass(frozen=True)
class Decoded:
    """One decoded image.

    Attributes
    ----------
    pixels
        ``(channel, *space)`` float32 with space ([z,] y, x), in the file's own units.
    affine
        ``(4, 4)`` index (z, y, x) to RAS mm; None where the format has no patient geometry.
    names
        Names of the channels of a mask, where the format has some: ``red``, ``green``, ``blue``, ``alpha``, ``index``.
    """

    pixels: NDArray[np.float32]
    affine: NDArray[np.float64] | None = None
    names: tuple[str, ...] = ()


class Window(BaseModel):
    """A fixed window, to which values are clipped, in the units that they have after rescaling (HU for CT)."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    center: float
    width: float = Field(gt=0)


WindowConfig = Literal["none", "file"] | Window

Frames = Literal["as stored", "channels", "images"]
"""The part of frames: as their format has them, the channels of one image, or each an image of its own."""


class Counts(NamedTuple):
    """The numbers of frames that a file holds: its pictures, and its volumes, such as the time points of a series.

    A network of pictures has the pictures for frames, one of volumes the volumes.
    """

    pictures: int = 1
    volumes: int = 1

    def of(self, spatial_dims: int) -> int:
        """Count the frames for a network of `spatial_dims`."""
        return self.pictures if spatial_dims == 2 else self.volumes


class Declared(NamedTuple):
    """A file's header, as far as it is of use before the pixels are decoded.

    Attributes
    ----------
    values
        How many numbers the pixels are.
    series
        UID of the series whose other files make one volume with this one; empty if there is none, or it is not told.
    modality
        One of `tasks.cohort.modalities`; empty if the file names none, or another.
    patient, issuer
        Whose image it is, and who gave that identifier; empty if the file does not say.
    frames
        How many pictures the file holds, if the format tells pictures of a volume apart.
    orientation
        Direction cosines of the rows and columns of a series' slice; empty if it does not say.
    counts
        How many of its pictures, and of its volumes, can be images of their own.
    """

    values: int
    series: str = ""
    modality: str = ""
    patient: str = ""
    issuer: str = ""
    frames: int = 1
    orientation: tuple[float, ...] = ()
    counts: Counts = Counts()


@dataclass(frozen=True)
class Request:
    """The image that a reader is asked for.

    Attributes
    ----------
    spatial_dims
        How many spatial dimensions the network takes. It decides where an array could be meant either way; whether the
        image fits the network is checked after it was decoded.
    window
        How values are windowed where a format knows of windows.
    largest
        How many bytes the pixels may take as float32.
    as_mask
        Whether a mask is asked for, whose transparency and indices into a palette are channels, too.
    frame
        The one frame that is wanted, counted from 1, of the `Counts` that the header declares for a network of
        `spatial_dims`; None: the whole file.
    as_channels
        Whether the frames are the channels of the image, one frame after the other, each with its own channels. The
        image lies where its middle frame does.
    """

    spatial_dims: int
    window: WindowConfig = "none"
    largest: int = LARGEST
    as_mask: bool = False
    frame: int | None = None
    as_channels: bool = False


class Reader(ABC):
    """A reader decodes the files of one format, or of several that one library decodes alike.

    To add one, write its file in `tasks/cohort/readers/`, and name it in `READERS` there.

    Attributes
    ----------
    formats
        Each format's name as the manifest has it, and as people write it.
    joins_files
        Whether several files can make one image, as the slices of a series do.
    loggers
        Loggers that the libraries write to. They are silenced, and so are the libraries' warnings, since a remark on a
        file may quote it.
    """

    formats: ClassVar[Mapping[str, str]]
    joins_files: ClassVar[bool] = False
    loggers: ClassVar[tuple[str, ...]] = ()

    @abstractmethod
    def recognise(self, data: bytes) -> str | None:
        """Tell by its content which of `formats` a file has.

        Parameters
        ----------
        data
            The whole file, which may be of any format, or damaged. It is not empty.

        Returns
        -------
        str or None
            A key of `formats`; None if the file is another reader's.

        Raises
        ------
        Unreadable
            If the file is too damaged for any reader to tell. Nothing else may be raised.
        """

    @abstractmethod
    def header(self, data: bytes) -> Declared:
        """Read what a file declares. Nothing is decoded, and nothing of the size that it declares is allocated.

        Parameters
        ----------
        data
            A whole file that this reader recognised.

        Raises
        ------
        Unreadable
            If the file holds no image, or the header is known to be wrong. Whatever else is raised counts as damage.
        """

    @abstractmethod
    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Decode one image.

        Whoever implements this calls `check_decoded` with what the headers declare before anything is decoded.

        Parameters
        ----------
        parts
            The image's file, which this reader recognised; several, in any order, if it joins files.

        Raises
        ------
        Unreadable
            If the image is larger than was asked for, or cannot be decoded. Whatever else is raised counts as damage.
        """


def check_file(size: int, largest: int) -> None:
    """Check the size of a file before it is read.

    Parameters
    ----------
    size
        Bytes of the file.
    largest
        How many bytes the pixels of an image may take as float32.

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
    """Check what the pixels of an image will take before they are decoded.

    Parameters
    ----------
    size
        Bytes of the pixels as float32.
    largest
        How many they may be.

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

    Parameters
    ----------
    frames
        The number that it declares.

    Raises
    ------
    Unreadable
        If it is more than any volume has, or less than one.
    """
    if not 1 <= frames <= MOST_FRAMES:
        raise Unreadable(f"the file declares {frames} frames: 1 to {MOST_FRAMES} are read")


def check_length(declared: int, held: int) -> None:
    """Check that a file holds the bytes of pixels that it declares.

    Parameters
    ----------
    declared, held
        Bytes of the pixels, by the header and in the file.

    Raises
    ------
    Unreadable
        If it holds less.
    """
    if held < declared:
        raise Unreadable(
            f"damaged: the file declares pixels of {declared} bytes and holds {held}; copy it again from its source"
        )


def enumerated(words: Sequence[str], conjunction: str) -> str:
    """Join words as a sentence does: "a, b and c"."""
    *others, last = words
    return f"{', '.join(others)} {conjunction} {last}" if others else last


def _shown(size: int) -> str:
    return f"{size} bytes" if size < 2**20 else f"{size / 2**20:.1f} MiB" if size < 2**30 else f"{size / 2**30:.1f} GiB"
