"""NumPy arrays."""

from io import BytesIO

import numpy as np

from tasks.readers.base import Decoded, Unreadable


def read(data: bytes, spatial_dims: int) -> Decoded:
    """Read ``(*space)`` or ``(channel, *space)``; objects are never unpickled."""
    array = np.load(BytesIO(data), allow_pickle=False)
    if array.dtype.kind not in "buif":
        raise Unreadable(f"the array's type is {array.dtype}: save it as integers or floats")
    if array.ndim == spatial_dims:
        array = array[None]
    if array.ndim != spatial_dims + 1:
        raise Unreadable(
            f"the array's shape is {array.shape}: the model takes {spatial_dims} spatial dimensions, "
            "with one of channels before them or none"
        )
    return Decoded(array.astype(np.float32))
