"""Read NumPy arrays."""

import math
import threading
from collections.abc import Sequence
from io import BytesIO
from typing import ClassVar

import numpy as np
from numpy.lib import format

from tasks.cohort.reading import Declared, Decoded, Reader, Request, Unreadable, check_decoded, check_length

_PARSES = threading.Lock()
"""numpy reads headers by `ast`, which raises SystemError now and then where threads use it at once (CPython before
3.11.8 and 3.12.2, gh-106905): sound files would be quarantined as damaged."""


class Npy(Reader):
    """The reader of NPY: ``(*space)`` or ``(channel, *space)``; objects are never unpickled."""

    formats: ClassVar = {"npy": "NPY"}

    def recognise(self, data: bytes) -> str | None:
        """Recognise the magic string."""
        return "npy" if data.startswith(format.MAGIC_PREFIX) else None

    def header(self, data: bytes) -> Declared:
        """Refuse what holds other things than numbers, or less of them than it declares."""
        file = BytesIO(data)
        version = format.read_magic(file)
        if version not in ((1, 0), (2, 0)):
            raise Unreadable(f"an array of format {version}, which has named fields: save it as integers or floats")
        read_header = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
        with _PARSES:
            shape, _, dtype = read_header(file)
        if dtype.kind not in "buif":
            raise Unreadable(f"the array's type is {dtype.type.__name__}: save it as integers or floats")
        if any(size < 0 for size in shape):
            raise Unreadable("the array declares negative sizes: damaged; save it again")
        count = math.prod(shape)
        check_length(count * dtype.itemsize, len(data) - file.tell())
        return Declared(count)

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Take the first axis for channels if there is one more than the network has spatial dimensions."""
        (data,) = parts
        check_decoded(4 * self.header(data).values, request.largest)
        with _PARSES:
            array = np.load(BytesIO(data), allow_pickle=False)
        if array.ndim == request.spatial_dims:
            array = array[None]
        if array.ndim != request.spatial_dims + 1:
            raise Unreadable(
                f"the array's shape is {array.shape}: the model takes {request.spatial_dims} spatial dimensions, "
                "with one of channels before them or none"
            )
        return Decoded(np.ascontiguousarray(array, np.float32))
