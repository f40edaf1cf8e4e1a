"""Slides as TIFF: Aperio's SVS, and whatever else tiffslide and tifffile know as a pyramid, OME-TIFF included."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import COMPRESSION, PHOTOMETRIC, TiffFile, TiffFrame, TiffPage, xml2dict

from tasks.cohort.readers.codestreams import check_codestream
from tasks.cohort.reading import Unreadable, check_frames, check_length
from tasks.cohort.slides.slide import WHITE, Level, Slide, side_of_pixels
from tasks.storage.ranges import RangedFile

_JPEG = (COMPRESSION.JPEG,)
_JPEG2000 = (COMPRESSION.JPEG2000, COMPRESSION.APERIO_JP2000_RGB, COMPRESSION.APERIO_JP2000_YCBC)
_PLAIN = (COMPRESSION.NONE, COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.ZSTD)
_COLOURS = (PHOTOMETRIC.RGB, PHOTOMETRIC.YCBCR)
_MICRONS = {"nm": 1e-3, "µm": 1.0, "um": 1.0, "mm": 1e3, "cm": 1e4}


class TiffSlide(Slide):
    """The first series of a TIFF, and the levels of lower resolution that belong to it."""

    def __init__(self, file: RangedFile) -> None:
        import tiffslide

        file.seek(0)  # tifffile takes the place where a stream is for the file's beginning
        # A name would lead tifffile to other files, which OME-TIFF can name as parts of its own.
        opened = tiffslide.TiffSlide(file, tifffile_options={"name": "slide", "_multifile": False})
        self._size = file.raw.size
        self._file: TiffFile = opened.ts_tifffile
        for number, _ in enumerate(self._file.pages, 1):
            check_frames(number)
        _page([self._file.pages[0]])  # says more than tiffslide does of what is no slide
        properties = opened.properties
        series = self._file.series[properties["tiffslide.series-index"]]
        self._pages = [_page(level.pages) for level in series.levels]
        stated = _ome_microns(self._file), [properties[f"tiffslide.mpp-{axis}"] for axis in "xy"]
        width, height = (None if side is None else float(side) for side in stated[0] or stated[1])
        super().__init__(tuple(map(_level, self._pages)), side_of_pixels(width, height))

    def _tile(self, level: int, row: int, column: int) -> NDArray[np.uint8]:
        page, of = self._pages[level], self.levels[level]
        index = row * -(-of.width // of.tile_width) + column
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:  # a tile that the scanner did not store, since there is nothing in it
            return np.full((of.tile_height, of.tile_width, 3), WHITE, np.uint8)
        check_length(offset + count, self._size)
        most = 2 * 3 * of.tile_height * of.tile_width + 2**16
        if count > most:
            raise Unreadable(f"a tile of {count} bytes, and one of its size needs no more than {most}: damaged")
        self._file.filehandle.seek(offset)
        data = self._file.filehandle.read(count)
        if page.compression in _JPEG + _JPEG2000:
            rows = of.tile_height if page.is_tiled else min(of.tile_height, of.height - row * of.tile_height)
            check_codestream(data, rows, of.tile_width, 3)
        # tifffile's decoder is a closure whose keywords differ by compression.
        tables: dict[str, Any] = {"jpegtables": page.jpegtables} if page.compression in _JPEG else {}
        pixels, _, _ = page.decode(data, index, **tables)
        return np.asarray(pixels)[0]


def _page(pages: list[Any]) -> TiffPage:
    """Take the only page of a level, and check that its pixels are such as are read."""
    if len(pages) != 1:
        raise Unreadable(f"a slide whose levels have {len(pages)} pages: a level is one page in RGB")
    page = pages[0].aspage() if isinstance(pages[0], TiffFrame) else pages[0]
    known = (page.photometric, page.samplesperpixel, page.bitspersample, page.planarconfig, page.imagedepth)
    if page.photometric not in _COLOURS or known[1:] != (3, 8, 1, 1) or page.sampleformat != 1:
        raise Unreadable(
            f"a slide of {page.samplesperpixel} samples of {page.bitspersample} bits (PhotometricInterpretation "
            f"{int(page.photometric)}): slides are read in RGB of 8 bits, pixel by pixel"
        )
    if page.compression not in _JPEG + _JPEG2000 + _PLAIN:
        raise Unreadable(f"a slide of compression {int(page.compression)}: save it with JPEG, JPEG 2000 or deflate")
    assert isinstance(page, TiffPage)
    return page


def _level(page: TiffPage) -> Level:
    tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, page.imagewidth)
    level = Level(page.imagelength, page.imagewidth, *tile)
    if not page.is_tiled:  # all rows in one strip may be stated by any large number
        level = level._replace(tile_height=min(level.tile_height, level.height))
    needed = -(-level.height // max(1, level.tile_height)) * -(-level.width // max(1, level.tile_width))
    if not len(page.dataoffsets) == len(page.databytecounts) == needed:
        raise Unreadable(f"a level of {needed} tiles has {len(page.dataoffsets)} of them: damaged")
    return level


def _ome_microns(file: TiffFile) -> list[float | None] | None:
    """Read the pixel's width and height that OME-XML states, since tiffslide knows the tags of TIFF alone."""
    if not file.is_ome or file.ome_metadata is None:
        return None
    image = xml2dict(file.ome_metadata).get("OME", {}).get("Image", {})
    pixels = (image[0] if isinstance(image, list) else image).get("Pixels", {})
    sides: list[float | None] = []
    for axis in "XY":
        size, unit = pixels.get(f"PhysicalSize{axis}"), pixels.get(f"PhysicalSize{axis}Unit", "µm")
        sides.append(None if size is None or unit not in _MICRONS else float(size) * _MICRONS[unit])
    return sides if sides[0] else None
