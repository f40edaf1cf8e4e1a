from io import BytesIO

import imagecodecs
import numpy as np
import pytest
import tifffile
from numpy.typing import NDArray
from PIL import Image

from tasks.cohort.readers import detect, read
from tasks.cohort.reading import Unreadable

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (7, 9)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (7, 9)).astype(np.uint16)
FRACTIONS = (DEEP / 7 - 3000).astype(np.float32)
COUNTS = DEEP.astype(np.int32) * 3 - 70000
COLOUR = RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8)
OPACITY = RNG.integers(0, 256, (7, 9)).astype(np.uint8)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, format, **options)
    return sink.getvalue()


def tiff(array: NDArray[np.generic], **options: object) -> bytes:
    sink = BytesIO()
    tifffile.imwrite(sink, array, **options)
    return sink.getvalue()


def palette_picture(indices: NDArray[np.uint8], colours: NDArray[np.uint8]) -> Image.Image:
    picture = Image.fromarray(indices, "P")
    picture.putpalette(colours.tobytes())
    return picture


def channels_first(array: NDArray[np.generic]) -> NDArray[np.generic]:
    return np.moveaxis(array, -1, 0)


PALETTE = RNG.integers(0, 256, (256, 3)).astype(np.uint8)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (encode(Image.fromarray(GREY)), GREY[None]),
        (encode(Image.fromarray(DEEP)), DEEP[None]),
        (encode(Image.fromarray(COLOUR)), channels_first(COLOUR)),
        (encode(Image.fromarray(np.dstack([COLOUR, OPACITY]))), channels_first(COLOUR)),
        (encode(Image.fromarray(np.dstack([GREY, OPACITY]), "LA")), GREY[None]),
        (encode(palette_picture(GREY, PALETTE)), channels_first(PALETTE[GREY])),
        (encode(Image.fromarray(GREY > 127)), 255 * (GREY > 127)[None]),
    ],
    ids=["8 bit", "16 bit", "RGB", "RGBA", "LA", "palette", "1 bit"],
)
def test_png_values_are_kept_and_transparency_is_dropped(data: bytes, expected: NDArray[np.generic]) -> None:
    decoded = read([data], 2)
    assert decoded.pixels.dtype == np.float32 and decoded.affine is None
    np.testing.assert_array_equal(decoded.pixels, expected)


@pytest.mark.parametrize(
    ("array", "byteorder", "compressions"),
    [
        (GREY, "<", ("none", "lzw", "zlib", "packbits")),
        (DEEP, "<", ("none", "lzw", "zlib", "packbits")),
        (DEEP, ">", ("none", "lzw", "zlib", "packbits")),
        (FRACTIONS, "<", ("none", "lzw", "zlib")),
        (FRACTIONS, ">", ("none",)),
        (COUNTS, "<", ("none", "lzw", "zlib")),
        (COUNTS, ">", ("none",)),
    ],
    ids=["uint8", "uint16", "big uint16", "float32", "big float32", "int32", "big int32"],
)
def test_tiff_values_are_kept(array: NDArray[np.generic], byteorder: str, compressions: tuple[str, ...]) -> None:
    for compression in compressions:
        data = tiff(array, byteorder=byteorder, compression=compression, photometric="minisblack")
        np.testing.assert_array_equal(read([data], 2).pixels[0], array.astype(np.float32), err_msg=compression)


@pytest.mark.parametrize("array", [FRACTIONS, COUNTS], ids=["float32", "int32"])
def test_compressed_values_that_pillow_would_swap_twice_are_refused(array: NDArray[np.generic]) -> None:
    with pytest.raises(Unreadable, match="big-endian 32-bit values: save it uncompressed"):
        read([tiff(array, byteorder=">", compression="lzw")], 2)


def test_a_colour_tiff_has_channels() -> None:
    np.testing.assert_array_equal(read([tiff(COLOUR, photometric="rgb")], 2).pixels, channels_first(COLOUR))


@pytest.mark.parametrize("colour", [False, True], ids=["grey", "colour"])
def test_the_pages_of_a_tiff_are_a_volume(colour: bool) -> None:
    pages = RNG.integers(0, 256, (3, 7, 9, *([3] if colour else []))).astype(np.uint8)
    data = tiff(pages, photometric="rgb" if colour else "minisblack")
    expected = channels_first(pages) if colour else pages[None]
    np.testing.assert_array_equal(read([data], 3).pixels, expected)
    with pytest.raises(Unreadable, match=r"a volume of \(3, 7, 9\)"):
        read([data], 2)


def test_tiff_pages_that_differ_in_size_are_refused() -> None:
    data = encode(Image.fromarray(GREY), "TIFF", save_all=True, append_images=[Image.fromarray(GREY[1:])])
    with pytest.raises(Unreadable, match="pages differ in size"):
        read([data], 3)


@pytest.mark.parametrize(
    ("orientation", "upright"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.T),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].T),
        (8, lambda a: np.rot90(a, 1)),
    ],
)
def test_a_jpeg_is_turned_upright(orientation: int, upright: object) -> None:
    stored = np.repeat(np.repeat(np.array([[10, 90, 170], [50, 130, 210]], np.uint8), 16, 0), 16, 1)
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encode(Image.fromarray(stored), "JPEG", quality=95, exif=exif)
    np.testing.assert_allclose(read([data], 2).pixels[0], upright(stored), atol=3)  # type: ignore[operator]


@pytest.mark.parametrize("mode", ["RGB", "CMYK"])
def test_a_jpeg_in_colour_has_three_channels(mode: str) -> None:
    smooth = np.stack(np.broadcast_arrays(np.arange(32)[:, None] * 4, np.arange(32) * 4, 90), -1).astype(np.uint8)
    data = encode(Image.fromarray(smooth).convert(mode), "JPEG", quality=95, subsampling=0)
    np.testing.assert_allclose(read([data], 2).pixels, channels_first(smooth), atol=12)


def test_the_first_picture_of_a_phones_jpeg_is_read() -> None:
    # Phones append a preview or a depth map to the photograph, in the MPO format.
    data = encode(Image.fromarray(GREY), "MPO", save_all=True, append_images=[Image.fromarray(GREY[::2])], quality=95)
    assert detect(data) == "jpeg"
    assert read([data], 2).pixels.shape == (1, *GREY.shape)


def test_the_first_picture_of_an_animated_png_is_read() -> None:
    data = encode(Image.fromarray(GREY), save_all=True, append_images=[Image.fromarray(255 - GREY)])
    np.testing.assert_array_equal(read([data], 2).pixels[0], GREY)


@pytest.mark.parametrize("format", ["PNG", "JPEG", "TIFF"])
@pytest.mark.parametrize("share", [0.3, 0.7])
def test_truncated_pictures_are_refused(format: str, share: float) -> None:
    noise = RNG.integers(0, 256, (64, 64)).astype(np.uint8)
    data = encode(Image.fromarray(noise), format)
    with pytest.raises(Unreadable, match=f"damaged or unsupported {format.lower()}"):
        read([data[: int(share * len(data))]], 2)


def test_a_picture_is_no_volume() -> None:
    with pytest.raises(Unreadable, match=r"a picture of \(7, 9\) \(y, x\), but the model takes volumes"):
        read([encode(Image.fromarray(GREY))], 3)


@pytest.mark.parametrize("codec", ["png", "tiff"])
def test_deep_colour_is_refused_and_never_cut_to_eight_bits(codec: str) -> None:
    colour = np.full((4, 5, 3), 40_000, dtype=np.uint16)
    data = imagecodecs.png_encode(colour) if codec == "png" else tiff(colour, photometric="rgb")
    with pytest.raises(Unreadable, match="16-bit colour"):
        read([data], 2)
