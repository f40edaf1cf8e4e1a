"""Read PNG, JPEG and TIFF."""

from collections.abc import Iterator, Sequence
from io import BytesIO
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps, ImageSequence
from PIL.TiffImagePlugin import BITSPERSAMPLE, TILELENGTH, TILEWIDTH, TiffImageFile

from tasks.cohort.reading import Declared, Decoded, Reader, Request, Unreadable, check_decoded, check_frames

Image.MAX_IMAGE_PIXELS = None  # sizes are held against a bound of the cohort's instead

_MAGIC = {
    b"\x89PNG\r\n\x1a\n": "png",
    b"\xff\xd8\xff": "jpeg",
    b"II*\x00": "tiff",
    b"MM\x00*": "tiff",
}
_DEEP = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class Picture(Reader):
    """The reader of pictures in grey or colour, ``(channel, y, x)``, and of TIFFs of pages, ``(channel, page, y, x)``.

    Transparency is dropped, palettes are resolved, and a JPEG's orientation tag is applied. Of an animation,
    or a photograph with a preview, the first picture is read.
    """

    formats: ClassVar = {"png": "PNG", "jpeg": "JPEG", "tiff": "TIFF"}
    loggers = ("PIL",)

    def recognise(self, data: bytes) -> str | None:
        """Recognise the first bytes."""
        return next((format for magic, format in _MAGIC.items() if data.startswith(magic)), None)

    def header(self, data: bytes) -> Declared:
        """Count one number a pixel in grey, and three in colour, over all pages; refuse too many pages."""
        with Image.open(BytesIO(data)) as image:
            return Declared(sum(_values(page) for page in _pages(image)))

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse pages that differ, and what Pillow would decode wrongly without a word."""
        (data,) = parts
        check_decoded(4 * self.header(data).values, request.largest)
        with Image.open(BytesIO(data)) as image:
            if _is_deep_colour(image, data):
                raise Unreadable("16-bit colour, of which only 8 bits would be read: save the channels as NPY")
            if isinstance(image, TiffImageFile):
                _check_byte_order(image)
            pages = [_page(page) for page in _pages(image)]
        if len({page.shape for page in pages}) > 1:
            raise Unreadable("the TIFF's pages differ in size or colour: save the one to explain as a file of its own")
        return Decoded(pages[0] if len(pages) == 1 else np.stack(pages, axis=1))


def _pages(image: Image.Image) -> Iterator[Image.Image]:
    if not isinstance(image, TiffImageFile):
        yield image
        return
    for number, page in enumerate(ImageSequence.Iterator(image), 1):
        check_frames(number)
        yield page


def _values(page: Image.Image) -> int:
    """Count the numbers of a page, or those of a TIFF's tile that is larger, since a tile is decoded whole."""
    size = page.width * page.height
    if isinstance(page, TiffImageFile):
        size = max(size, int(page.tag_v2.get(TILEWIDTH, 0)) * int(page.tag_v2.get(TILELENGTH, 0)))
    return size * (1 if page.mode in ("1", "L", "LA", *_DEEP) else 3)


def _is_deep_colour(image: Image.Image, data: bytes) -> bool:
    if isinstance(image, TiffImageFile):
        return image.mode not in _DEEP and max(image.tag_v2.get(BITSPERSAMPLE, (8,))) > 8
    return image.format == "PNG" and data[24] == 16 and image.mode not in _DEEP


def _check_byte_order(image: TiffImageFile) -> None:
    # Pillow swaps these values after libtiff has swapped them, and says nothing.
    if image.tag_v2.prefix == b"MM" and image.mode in ("I", "F") and image.tile[0].codec_name == "libtiff":
        raise Unreadable("a compressed TIFF of big-endian 32-bit values: save it uncompressed or little-endian")


def _page(page: Image.Image) -> NDArray[np.float32]:
    page = ImageOps.exif_transpose(page)
    if page.mode in ("1", "LA"):
        page = page.convert("L")
    elif page.mode not in ("L", "RGB", *_DEEP):
        page = page.convert("RGB")
    array = np.asarray(page).astype(np.float32)
    return array[None] if array.ndim == 2 else np.ascontiguousarray(np.moveaxis(array, -1, 0))
