"""Read PNG and JPEG."""

from collections.abc import Sequence
from io import BytesIO
from typing import ClassVar

import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from tasks.cohort.reading import Declared, Decoded, Reader, Request, check_decoded

Image.MAX_IMAGE_PIXELS = None  # sizes are held against a bound of the cohort's instead

_MAGIC = {b"\x89PNG\r\n\x1a\n": "png", b"\xff\xd8\xff": "jpeg"}
_GREY = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_COLOURS = ("red", "green", "blue")


class Picture(Reader):
    """The reader of pictures in grey or colour, ``(channel, y, x)``.

    Transparency is dropped, palettes are resolved, and a JPEG's orientation tag is applied. Of an animation,
    or a photograph with a preview, the first picture is read.
    """

    formats: ClassVar = {"png": "PNG", "jpeg": "JPEG"}
    loggers = ("PIL",)

    def recognise(self, data: bytes) -> str | None:
        """Recognise the first bytes."""
        return next((format for magic, format in _MAGIC.items() if data.startswith(magic)), None)

    def header(self, data: bytes) -> Declared:
        """Count one number a pixel in grey, and three in colour."""
        with Image.open(BytesIO(data)) as image:
            return Declared(image.width * image.height * len(_names(image, as_mask=False)))

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Decode the picture; 16-bit colour is no matter for Pillow, which would cut it to 8 bits."""
        (data,) = parts
        with Image.open(BytesIO(data)) as image:
            names = _names(image, request.as_mask)
            check_decoded(4 * image.width * image.height * len(names), request.largest)
            is_deep = image.format == "PNG" and data[24] == 16 and image.mode in ("LA", "RGB", "RGBA")
            pixels = _deep(data, names) if is_deep else _pixels(ImageOps.exif_transpose(image), names)
        return Decoded(pixels, names=names if request.as_mask else ())


def _names(image: Image.Image, as_mask: bool) -> tuple[str, ...]:
    """Name the channels that are read; those of a mask are transparency and the indices into a palette, too."""
    colours = ("grey",) if image.mode in _GREY else _COLOURS
    is_transparent = image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info
    if not as_mask:
        return colours
    return (*colours, *["alpha"] * is_transparent, *["index"] * (image.mode == "P"))


def _pixels(image: Image.Image, names: Sequence[str]) -> NDArray[np.float32]:
    channels = []
    if "grey" in names:
        channels.append(image.convert("L") if image.mode in ("1", "LA") else image)
    else:
        channels += (image if image.mode == "RGB" else image.convert("RGB")).split()
    if "alpha" in names:
        channels.append(image.convert("RGBA").getchannel("A"))
    if "index" in names:
        channels.append(image)
    return np.stack([np.asarray(channel) for channel in channels]).astype(np.float32)


def _deep(data: bytes, names: Sequence[str]) -> NDArray[np.float32]:
    """Decode a PNG of several channels of 16 bits."""
    stored = imagecodecs.png_decode(data)
    samples = np.moveaxis(stored, -1, 0)
    colours = samples[: 3 if len(samples) > 2 else 1]
    return np.concatenate([colours, samples[-1:]] if "alpha" in names else [colours]).astype(np.float32)
