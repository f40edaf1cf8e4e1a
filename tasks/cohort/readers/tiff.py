"""Read TIFF and BigTIFF."""

import re
from collections.abc import Iterator, Sequence
from io import BytesIO
from itertools import chain, islice
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffPage

from tasks.cohort.reading import (
    Counts,
    Declared,
    Decoded,
    Reader,
    Request,
    Unreadable,
    check_decoded,
    check_frames,
    check_length,
    enumerated,
)

_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_ORIENTATION = 274
_ALPHA = (1, 2)
_COLOURS = ("red", "green", "blue")
_COMPRESSIONS = (
    COMPRESSION.NONE,
    COMPRESSION.CCITTRLE,
    COMPRESSION.CCITT_T4,
    COMPRESSION.CCITT_T6,
    COMPRESSION.LZW,
    COMPRESSION.JPEG,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.ZSTD,
)
"""Compressions decoded into memory of the size that the page declares; a JPEG's own header is held against that."""


class Tiff(Reader):
    """The reader of TIFFs in grey or colour, ``(channel, y, x)``, and of those of pages, ``(channel, page, y, x)``.

    The darkest value is the smallest, also where the file says that white is zero; less than eight bits are spread to
    0 to 255. Palettes are resolved, the orientation tag is applied, transparency is dropped, thumbnails are left out.
    """

    formats: ClassVar = {"tiff": "TIFF"}
    loggers = ("tifffile",)

    def recognise(self, data: bytes) -> str | None:
        """Recognise the first bytes."""
        return "tiff" if data.startswith(_MAGIC) else None

    def header(self, data: bytes) -> Declared:
        """Count the pages and their numbers, or those of a larger tile, since a tile is decoded whole."""
        with TiffFile(BytesIO(data)) as file:
            values = [_values(page, as_mask=False) for page in _pages(file)]
        return Declared(sum(values), counts=Counts(pictures=len(values)))

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        """Refuse pages that differ, and colours that are none of grey, RGB, a palette, CMYK and JPEG's."""
        (data,) = parts
        frame = request.frame
        with TiffFile(BytesIO(data)) as file:
            own = None if frame is None else [*islice(_pages(file), frame - 1, frame)]
            values = (_values(page, request.as_mask) for page in (_pages(file) if own is None else own))
            check_decoded(4 * sum(values), request.largest)
            decoded = [_decoded(page, data, request.as_mask) for page in (_pages(file) if own is None else own)]
            if len(decoded) > 1 and request.spatial_dims == 3:
                _check_slices(file, len(decoded))
        if len({(page.pixels.shape, page.names) for page in decoded}) > 1:
            raise Unreadable("the TIFF's pages differ in size or colour: save the one to explain as a file of its own")
        if len(decoded) == 1:
            return decoded[0]
        if request.as_channels and request.spatial_dims == 2:
            return Decoded(np.concatenate([page.pixels for page in decoded]))
        return Decoded(np.stack([page.pixels for page in decoded], axis=1), names=decoded[0].names)


def _pages(file: TiffFile) -> Iterator[TiffPage]:
    """Go through the pages, without thumbnails and transparency masks; none is kept, since there can be many."""
    for number, page in enumerate(file.pages, 1):
        check_frames(number)
        assert isinstance(page, TiffPage)
        if number == 1 or not (page.is_reduced or page.is_mask):
            yield page
    if file.is_imagej and (held := int((file.imagej_metadata or {}).get("images", 1))) > number:
        raise Unreadable(f"an ImageJ stack of {held} images with {number} page: save the stack with a page for each")


def _check_slices(file: TiffFile, pages: int) -> None:
    """Check that the pages are not told apart by two things, such as slice and channel, by what ImageJ or OME say."""
    counts = {name: number for name, number in _counts(file, pages).items() if number > 1}
    if len(counts) > 1:
        said = enumerated([f"{number} {name}" for name, number in counts.items()], "and")
        raise Unreadable(
            f"a TIFF whose pages are {said}, which are no slices of one volume: save the slices of each channel and "
            "time point as a file of its own (cohort.sequences names several as channels)"
        )


def _counts(file: TiffFile, pages: int) -> dict[str, int]:
    """Count the slices, channels, time points and images that the pages are."""
    if file.is_imagej:
        return {name: int((file.imagej_metadata or {}).get(name, 1)) for name in ("slices", "channels", "frames")}
    if not file.is_ome:
        return {}
    said = str(file.ome_metadata)
    if len(own := _own_planes(said)) == pages:
        names = ("slices", "channels", "frames", "images")
        return {name: len(set(along)) for name, along in zip(names, zip(*own, strict=True), strict=True)}
    sizes = {axis: [int(size) for size in re.findall(rf'\bSize{axis}="(\d+)"', said)] for axis in "ZCT"}
    samples = file.pages.first.samplesperpixel
    return {
        "slices": max(sizes["Z"], default=1),
        "channels": max(sizes["C"], default=1) // samples,
        "frames": max(sizes["T"], default=1),
        "images": len(sizes["Z"]),
    }


def _own_planes(said: str) -> list[tuple[int, ...]]:
    """List the planes (slice, channel, time, image) that OME says to be of this file, which may be one of several."""
    own = re.search(r'<(?:\w+:)?OME\b[^>]*\bUUID="([^"]+)"', said)
    blocks = re.compile(r"<(?:\w+:)?TiffData\b([^>]*)>\s*<(?:\w+:)?UUID\b[^>]*>([^<]*)<")
    planes = []
    for image, of_image in enumerate(re.split(r"<(?:\w+:)?Image\b", said)):
        for block, file in blocks.findall(of_image):
            if own and file.strip() == own[1]:
                first = dict(re.findall(r'\bFirst([ZCT])="(\d+)"', block))
                planes.append((*(int(first.get(axis, 0)) for axis in "ZCT"), image))
    return planes


def _values(page: TiffPage, as_mask: bool) -> int:
    size = max(page.imagewidth * page.imagelength, page.tilewidth * page.tilelength)
    return size * page.imagedepth * len(_Channels(page).names(as_mask))


def _decoded(page: TiffPage, data: bytes, as_mask: bool) -> Decoded:
    _check_segments(page, data)
    return _Channels(page).decoded(as_mask)


def _check_segments(page: TiffPage, data: bytes) -> None:
    """Check that strips and tiles lie in the file, and that a JPEG is no larger than what it fills."""
    if page.compression not in _COMPRESSIONS:
        raise Unreadable(f"a TIFF of compression {int(page.compression)}: save it uncompressed, or with LZW or deflate")
    if page.imagedepth != 1:
        raise Unreadable(f"a TIFF whose pages are {page.imagedepth} deep: save a page for each slice")
    for offset, count in zip(page.dataoffsets, page.databytecounts, strict=True):
        check_length(offset + max(count, 1), len(data))
        if page.compression == COMPRESSION.JPEG:
            with Image.open(BytesIO(data[offset : offset + count])) as segment:
                width, height = segment.size
            rows, columns = (page.tilelength, page.tilewidth) if page.is_tiled else (page.imagelength, page.imagewidth)
            if width > columns or height > rows:
                raise Unreadable(f"a JPEG of {height} x {width} in a TIFF that declares {rows} x {columns}: damaged")


class _Channels:
    """The channels of a page: which of its samples are colours, and which is alpha."""

    def __init__(self, page: TiffPage) -> None:
        self.page = page
        extra = tuple(page.extrasamples)
        self.own = page.samplesperpixel - len(extra)
        self.alpha = next((self.own + place for place, kind in enumerate(extra) if kind in _ALPHA), None)
        self.is_palette = page.photometric == PHOTOMETRIC.PALETTE
        self.is_white_zero = page.photometric == PHOTOMETRIC.MINISWHITE
        self.is_cmyk = page.photometric == PHOTOMETRIC.SEPARATED
        self.is_grey = self.is_white_zero or page.photometric == PHOTOMETRIC.MINISBLACK
        is_jpeg_colour = page.photometric == PHOTOMETRIC.YCBCR and page.compression == COMPRESSION.JPEG
        self.is_rgb = page.photometric == PHOTOMETRIC.RGB or is_jpeg_colour

    def names(self, as_mask: bool) -> tuple[str, ...]:
        """Name the channels that are read; of several that are grey, by number."""
        if self.is_grey:
            grey = tuple(str(place) for place in range(self.page.samplesperpixel) if place != self.alpha)
        else:
            grey = _COLOURS
        if not as_mask:
            return grey
        return (*grey, *["alpha"] * (self.alpha is not None), *["index"] * self.is_palette)

    def decoded(self, as_mask: bool) -> Decoded:
        """Decode the page: ``(channel, y, x)``."""
        stored = self.page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (plane, y, x, sample)
        samples = np.moveaxis(stored, -1, 0).reshape(-1, *stored.shape[1:3])
        if samples.dtype.kind not in "buif":
            raise Unreadable(f"pixels of type {samples.dtype.type.__name__}: convert them to integers or floats")
        if samples.dtype == bool:
            samples = samples.astype(np.uint8)
        colours = self._colours(samples)
        if as_mask and self.alpha is not None:
            colours = chain(colours, [samples[self.alpha]])
        if as_mask and self.is_palette:
            colours = chain(colours, [samples[0]])
        pixels = _upright(np.stack([np.asarray(one, np.float32) for one in colours]), self.page)
        return Decoded(np.ascontiguousarray(pixels), names=self.names(as_mask) if as_mask else ())

    def _colours(self, samples: NDArray[np.generic]) -> Iterator[NDArray[np.generic]]:
        if self.is_grey:
            yield from (self._grey(one) for place, one in enumerate(samples) if place != self.alpha)
        elif self.is_palette:
            yield from self._palette()[:, samples[0]]
        elif self.is_rgb and self.own == len(_COLOURS):
            yield from samples[:3]
        elif self.is_cmyk and self.own == 4 and samples.dtype == np.uint8:
            inks = np.ascontiguousarray(np.moveaxis(samples[:4], 0, -1))
            yield from np.moveaxis(np.asarray(Image.fromarray(inks, "CMYK").convert("RGB")), -1, 0)
        else:
            raise Unreadable(
                f"a TIFF of colours that are not read (PhotometricInterpretation {int(self.page.photometric)}, "
                f"{self.own} samples of {self.page.bitspersample} bits): save it in RGB or grey"
            )

    def _grey(self, values: NDArray[np.generic]) -> NDArray[np.generic]:
        bits = self.page.bitspersample
        if values.dtype.kind != "u":
            if self.is_white_zero:
                raise Unreadable("a TIFF of signed or real values in which white is zero: save it with black as zero")
            return values
        most = 2**bits - 1
        values = values.astype(np.uint64)
        if self.is_white_zero:
            values = most - values
        return values * (255 / most) if bits < 8 else values

    def _palette(self) -> NDArray[np.uint16]:
        colours = self.page.colormap
        if colours is None or colours.shape != (3, 2**self.page.bitspersample):
            raise Unreadable("a TIFF with a palette that is missing or too short: save it in RGB")
        return colours // 256 if colours.max() > 255 else colours  # some programs write eight bits


def _upright(pixels: NDArray[np.float32], page: TiffPage) -> NDArray[np.float32]:
    """Turn ``(channel, y, x)`` as the orientation tag says."""
    orientation = page.tags.valueof(_ORIENTATION, 1)
    if orientation >= 5:
        pixels = pixels.swapaxes(1, 2)
    flipped = {2: (2,), 3: (1, 2), 4: (1,), 6: (2,), 7: (1, 2), 8: (1,)}.get(orientation, ())
    return np.flip(pixels, flipped)
