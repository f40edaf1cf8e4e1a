"""PNG, JPEG and TIFF."""

from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence

from tasks.readers.base import Decoded

_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def read(data: bytes) -> Decoded:
    """Read grey or colour as ``(channel, y, x)``, a TIFF of several pages as ``(channel, page, y, x)``.

    Transparency is dropped, palettes are resolved, and a JPEG's orientation tag is applied.
    """
    with Image.open(BytesIO(data)) as image:
        pages = [_page(page) for page in ImageSequence.Iterator(image)]
    return Decoded(pages[0] if len(pages) == 1 else np.stack(pages, axis=1))


def _page(page: Image.Image) -> NDArray[np.float32]:
    page = ImageOps.exif_transpose(page)
    if page.mode in ("1", "LA"):
        page = page.convert("L")
    elif page.mode not in ("L", "RGB", *_DEEP):
        page = page.convert("RGB")
    array = np.asarray(page).astype(np.float32)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
