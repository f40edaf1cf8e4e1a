import struct
from io import BytesIO

import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tasks.cohort.readers import detect, read, read_mask
from tasks.cohort.reading import Unreadable

RNG = np.random.default_rng(7)
SHAPE = (16, 24)
COLOUR = RNG.integers(0, 256, (*SHAPE, 3)).astype(np.uint8)
GREY = COLOUR[..., 0]
DEEP = RNG.integers(0, 65536, SHAPE).astype(np.uint16)
COMPRESSIONS = (None, "lzw", "zlib", "packbits", "zstd")


def values_of(type: str) -> NDArray[np.generic]:
    """Draw values over the whole range of a type, its ends among them."""
    dtype = np.dtype(type)
    if dtype.kind == "f":
        return (RNG.normal(size=SHAPE) * 3000).astype(dtype)
    ends = np.iinfo(dtype)
    drawn = RNG.integers(ends.min, ends.max, SHAPE, dtype=dtype, endpoint=True)
    drawn.flat[:2] = ends.min, ends.max
    return drawn


def tiff(array: NDArray[np.generic], **options: object) -> bytes:
    sink = BytesIO()
    tifffile.imwrite(sink, array, **{"photometric": "minisblack"} | options)
    return sink.getvalue()


def saved(image: Image.Image, **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, "TIFF", **options)
    return sink.getvalue()


def channels_first(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.moveaxis(array, -1, 0)


@pytest.mark.parametrize("byteorder", ["<", ">"])
@pytest.mark.parametrize("type", ["u1", "i1", "u2", "i2", "u4", "i4", "f4", "f8"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_values_are_kept_whatever_type_and_order_of_bytes(type: str, byteorder: str, compression: str | None) -> None:
    array = values_of(type)
    for options in ({}, {"tile": (16, 16)}, {"bigtiff": True}, {"rowsperstrip": 5}):
        data = tiff(array, byteorder=byteorder, compression=compression, **options)
        np.testing.assert_array_equal(read([data], 2).pixels[0], array.astype(np.float32), err_msg=str(options))


@pytest.mark.parametrize(("type", "predictor"), [("u1", 2), ("u2", 2), ("u4", 2), ("f4", 3)])
@pytest.mark.parametrize("compression", ["lzw", "zlib"])
def test_predictors_are_undone(type: str, predictor: int, compression: str) -> None:
    array = values_of(type)
    data = tiff(array, compression=compression, predictor=predictor)
    np.testing.assert_array_equal(read([data], 2).pixels[0], array.astype(np.float32))


@pytest.mark.parametrize("type", ["u1", "u2", "u4"])
@pytest.mark.parametrize("compression", COMPRESSIONS)
def test_where_white_is_zero_the_darkest_is_the_smallest(type: str, compression: str | None) -> None:
    array = values_of(type)
    data = tiff(array, photometric="miniswhite", compression=compression)
    bright = np.iinfo(array.dtype).max - array.astype(np.float64)
    np.testing.assert_array_equal(read([data], 2).pixels[0], bright.astype(np.float32))


@pytest.mark.parametrize("type", ["i2", "f4"])
def test_white_that_is_zero_among_signed_values_is_refused(type: str) -> None:
    with pytest.raises(Unreadable, match="signed or real values in which white is zero"):
        read([tiff(values_of(type), photometric="miniswhite")], 2)


@pytest.mark.parametrize("compression", ["raw", "group3", "group4", "tiff_ccitt", "packbits", "tiff_lzw"])
@pytest.mark.parametrize("photometric", [0, 1])
def test_one_bit_is_black_or_white(compression: str, photometric: int) -> None:
    lit = GREY > 127
    data = saved(Image.fromarray(lit), compression=compression, tiffinfo={262: photometric})
    with Image.open(BytesIO(data)) as oracle:
        np.testing.assert_array_equal(read([data], 2).pixels[0], np.asarray(oracle.convert("L")))


@pytest.mark.parametrize("bits", [2, 4, 12])
@pytest.mark.parametrize("white_is_zero", [False, True])
def test_few_bits_are_spread_over_eight_and_twelve_are_kept(bits: int, white_is_zero: bool) -> None:
    values = RNG.integers(0, 2**bits, SHAPE).astype(np.uint16 if bits > 8 else np.uint8)
    photometric = "miniswhite" if white_is_zero else "minisblack"
    data = tiff(values, bitspersample=bits, photometric=photometric)
    expected = 2**bits - 1 - values.astype(float) if white_is_zero else values
    np.testing.assert_array_equal(read([data], 2).pixels[0], expected * (255 / (2**bits - 1) if bits < 8 else 1))


def palette_tiff(indices: NDArray[np.integer], bits: int, colours: NDArray[np.uint16], order: str) -> bytes:
    """Write the tags by hand, since no library writes palettes of fewer bits."""
    digits = indices[..., None] >> np.arange(bits)[::-1] & 1
    pixels = np.packbits(digits.reshape(len(indices), -1).astype(np.uint8), axis=1)
    if bits == 16:
        pixels = indices.astype(f"{order}u2").view(np.uint8)
    colormap = colours.astype(f"{order}u2").tobytes()
    height, width = indices.shape
    tags = [(256, 3, 1, width), (257, 3, 1, height), (258, 3, 1, bits), (259, 3, 1, 1), (262, 3, 1, 3)]
    begin = 8 + 2 + 12 * 10 + 4
    tags += [(273, 4, 1, begin + len(colormap)), (277, 3, 1, 1), (278, 3, 1, height), (279, 4, 1, pixels.nbytes)]
    tags += [(320, 3, colours.size, begin)]
    data = {"<": b"II*\0", ">": b"MM\0*"}[order] + struct.pack(f"{order}IH", 8, len(tags))
    for tag, kind, count, value in tags:
        packed = struct.pack(f"{order}H2x", value) if kind == 3 and count == 1 else struct.pack(f"{order}I", value)
        data += struct.pack(f"{order}HHI", tag, kind, count) + packed
    return data + bytes(4) + colormap + pixels.tobytes()


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("bits", [1, 2, 4, 8, 16])
@pytest.mark.parametrize("factor", [257, 1], ids=["16-bit colours", "8-bit colours"])
def test_a_palette_of_any_depth_is_resolved(bits: int, factor: int, order: str) -> None:
    indices = RNG.integers(0, 2**bits, SHAPE)
    colours = RNG.integers(0, 256, (3, 2**bits)).astype(np.uint16)
    colours.flat[0] = 255
    data = palette_tiff(indices, bits, colours * factor, order)
    np.testing.assert_array_equal(read([data], 2).pixels, colours[:, indices])
    mask = read_mask(data, 2)
    assert mask.names == ("red", "green", "blue", "index")
    np.testing.assert_array_equal(mask.pixels[3], indices)


@pytest.mark.parametrize("type", [np.uint8, np.uint16])
@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("alpha", [False, True])
def test_colour_has_three_channels(type: type, planar: str, alpha: bool) -> None:
    stored = RNG.integers(0, np.iinfo(type).max, (3 + alpha, *SHAPE), dtype=type, endpoint=True)
    laid_out = stored if planar == "separate" else np.moveaxis(stored, 0, -1)
    extra = {"extrasamples": ["unassalpha"]} if alpha else {}
    data = tiff(laid_out, photometric="rgb", planarconfig=planar, **extra)
    np.testing.assert_array_equal(read([data], 2).pixels, stored[:3])
    np.testing.assert_array_equal(read_mask(data, 2).pixels, stored)


def test_channels_that_are_no_colours_are_all_read() -> None:
    stored = RNG.integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    data = tiff(stored, planarconfig="separate", extrasamples=["unspecified"] * 4)
    np.testing.assert_array_equal(read([data], 2).pixels, stored)


@pytest.mark.parametrize("mode", ["CMYK", "RGB", "L"])
def test_inks_and_jpeg_are_read_as_pillow_does(mode: str) -> None:
    smooth = np.stack(np.broadcast_arrays(np.arange(32)[:, None] * 4, np.arange(32) * 4, 90), -1).astype(np.uint8)
    data = saved(Image.fromarray(smooth).convert(mode), compression="raw" if mode == "CMYK" else "jpeg")
    with Image.open(BytesIO(data)) as oracle:
        shown = np.asarray(oracle if mode == "L" else oracle.convert("RGB"))
    np.testing.assert_allclose(read([data], 2).pixels, shown[None] if mode == "L" else channels_first(shown), atol=2)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_upright(orientation: int) -> None:
    data = saved(Image.fromarray(GREY), tiffinfo={274: orientation})
    with Image.open(BytesIO(data)) as oracle:
        oracle.load()  # turns it
        np.testing.assert_array_equal(read([data], 2).pixels[0], np.asarray(oracle))


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
@pytest.mark.parametrize("bigtiff", [False, True])
def test_the_pages_of_a_tiff_are_a_volume(colour: bool, bigtiff: bool) -> None:
    pages = RNG.integers(0, 256, (3, 7, 9, *([3] if colour else []))).astype(np.uint8)
    data = tiff(pages, photometric="rgb" if colour else "minisblack", bigtiff=bigtiff)
    assert detect(data) == "tiff"
    np.testing.assert_array_equal(read([data], 3).pixels, channels_first(pages) if colour else pages[None])
    with pytest.raises(Unreadable, match=r"a volume of \(3, 7, 9\)"):
        read([data], 2)


def test_pages_that_differ_in_size_are_refused() -> None:
    data = saved(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(GREY[1:])])
    with pytest.raises(Unreadable, match="pages differ in size"):
        read([data], 3)


def test_a_thumbnail_is_no_page() -> None:
    sink = BytesIO()
    with tifffile.TiffWriter(sink) as file:
        file.write(GREY, photometric="minisblack")
        file.write(GREY[::2, ::2], photometric="minisblack", subfiletype=1)
    np.testing.assert_array_equal(read([sink.getvalue()], 2).pixels[0], GREY)


def test_a_stack_with_one_page_for_many_images_is_refused() -> None:
    data = tiff(GREY, description="ImageJ=1.54f\nimages=40\nslices=40\n")
    with pytest.raises(Unreadable, match="an ImageJ stack of 40 images with 1 page"):
        read([data], 2)


@pytest.mark.parametrize("kind", ["imagej", "ome"])
@pytest.mark.parametrize(("axes", "shape"), [("ZYX", (6,)), ("CYX", (6,)), ("ZCYX", (3, 2)), ("TZYX", (2, 3))])
def test_pages_that_two_things_tell_apart_are_no_volume(kind: str, axes: str, shape: tuple[int, ...]) -> None:
    pages = np.arange(6 * 4 * 5, dtype=np.uint16).reshape(*shape, 4, 5)
    data = tiff(pages, **{kind: True}, metadata={"axes": axes})
    np.testing.assert_array_equal(read([data], 2, frames="channels").pixels, pages.reshape(6, 4, 5))
    np.testing.assert_array_equal(read([data], 2, frame=3).pixels[0], pages.reshape(6, 4, 5)[2])
    if len(shape) == 1:
        np.testing.assert_array_equal(read([data], 3).pixels[0], pages)
        return
    with pytest.raises(
        Unreadable, match=r"pages are 3 slices and 2 (channels|frames), which are no slices of one volume"
    ):
        read([data], 3)


def test_the_colours_of_an_ome_stack_are_no_pages() -> None:
    pages = np.arange(3 * 4 * 5 * 3, dtype=np.uint8).reshape(3, 4, 5, 3)
    data = tiff(pages, photometric="rgb", ome=True, metadata={"axes": "ZYXS"})
    np.testing.assert_array_equal(read([data], 3).pixels, np.moveaxis(pages, -1, 0))


@pytest.mark.parametrize(
    ("planes", "fits"),
    [
        ([("0", number, 1, 0) for number in range(3)], True),  # the slices of the second channel
        ([(image, 0, 0, 0) for image in "012"], True),
        ([("0", number // 2, number % 2, 0) for number in range(4)], False),
    ],
)
def test_a_file_of_an_ome_set_is_what_its_own_pages_are(planes: list[tuple[str, int, int, int]], fits: bool) -> None:
    def block(ifd: int, uuid: str, z: int, c: int, t: int) -> str:
        where = f'FirstZ="{z}" FirstC="{c}" FirstT="{t}" IFD="{ifd}" PlaneCount="1"'
        return f'<TiffData {where}><UUID FileName="{uuid}.ome.tif">urn:uuid:{uuid}</UUID></TiffData>'

    def image(name: str) -> str:
        own = [block(ifd, "own", *place) for ifd, (of, *place) in enumerate(planes) if of == name]
        others = [block(ifd, "other", ifd, 0, 0) for ifd in range(3)]
        size = 'SizeX="5" SizeY="4" SizeZ="3" SizeC="2" SizeT="1" Type="uint8" DimensionOrder="XYZCT"'
        return f'<Image ID="Image:{name}"><Pixels ID="p" {size}>{"".join(own + others)}</Pixels></Image>'

    schema = "http://www.openmicroscopy.org/Schemas/OME/2016-06"
    said = f'<?xml version="1.0"?><OME xmlns="{schema}" UUID="urn:uuid:own">{"".join(map(image, "012"))}</OME>'
    pages = np.arange(len(planes) * 20, dtype=np.uint8).reshape(-1, 4, 5)
    data = tiff(pages, description=said, metadata=None)
    if fits:
        np.testing.assert_array_equal(read([data], 3).pixels[0], pages)
    else:
        with pytest.raises(Unreadable, match="pages are 2 slices and 2 channels"):
            read([data], 3)


def test_what_is_not_decoded_into_a_known_size_is_refused() -> None:
    with pytest.raises(Unreadable, match="a TIFF of compression 34925: save it uncompressed"):
        read([tiff(GREY, compression="lzma")], 2)


def test_a_jpeg_that_is_larger_than_its_page_is_refused_before_it_is_decoded() -> None:
    inner, outer = BytesIO(), saved(Image.fromarray(GREY), compression="jpeg")
    Image.new("L", (9000, 9000)).save(inner, "JPEG")
    with tifffile.TiffFile(BytesIO(outer)) as file:
        offset, count = (file.pages[0].tags[tag] for tag in (273, 279))
    data = bytearray(outer + inner.getvalue())
    data[offset.offset + 8 : offset.offset + 12] = struct.pack("<I", len(outer))
    data[count.offset + 2 : count.offset + 12] = struct.pack("<HII", 4, 1, len(inner.getvalue()))
    with pytest.raises(Unreadable, match="a JPEG of 9000 x 9000 in a TIFF that declares 16 x 24"):
        read([bytes(data)], 2)
