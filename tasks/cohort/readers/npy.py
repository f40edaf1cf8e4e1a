"""NumPy arrays."""

import math
from io import BytesIO

import numpy as np
from numpy.lib import format

from tasks.cohort.reading import Decoded, Unreadable, check_decoded, check_length


def values(data: bytes) -> int:
    """How many numbers the array holds, as its header says.

    Raises
    ------
    Unreadable
        If it holds other things than numbers, or less of them than it declares.
    """
    file = BytesIO(data)
    version = format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Unreadable(f"an array of format {version}, which has named fields: save it as integers or floats")
    read_header = format.read_array_header_1_0 if version == (1, 0) else format.read_array_header_2_0
    shape, _, dtype = read_header(file)
    if dtype.kind not in "buif":
        raise Unreadable(f"the array's type is {dtype.type.__name__}: save it as integers or floats")
    count = math.prod(shape)
    check_length(count * dtype.itemsize, len(data) - file.tell())
    return count


def read(data: bytes, spatial_dims: int, largest: int) -> Decoded:
    """Read ``(*space)`` or ``(channel, *space)``; objects are never unpickled."""
    check_decoded(4 * values(data), largest)
    array = np.load(BytesIO(data), allow_pickle=False)
    if array.ndim == spatial_dims:
        array = array[None]
    if array.ndim != spatial_dims + 1:
        raise Unreadable(
            f"the array's shape is {array.shape}: the model takes {spatial_dims} spatial dimensions, "
            "with one of channels before them or none"
        )
    return Decoded(array.astype(np.float32))
