from io import BytesIO

import imagecodecs
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from tasks.cohort.readers import detect, read, read_mask
from tasks.cohort.reading import Unreadable

RNG = np.random.default_rng(7)
GREY = RNG.integers(0, 256, (7, 9)).astype(np.uint8)
DEEP = RNG.integers(0, 65536, (7, 9)).astype(np.uint16)
COLOUR = RNG.integers(0, 256, (7, 9, 3)).astype(np.uint8)
OPACITY = RNG.integers(0, 256, (7, 9)).astype(np.uint8)


def encode(image: Image.Image, format: str = "PNG", **options: object) -> bytes:
    sink = BytesIO()
    image.save(sink, format, **options)
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
    with pytest.raises(Unreadable, match="damaged"):
        read([data[: int(share * len(data))]], 2)


def test_a_picture_is_no_volume() -> None:
    with pytest.raises(Unreadable, match=r"a picture of \(7, 9\) \(y, x\), but the model takes volumes"):
        read([encode(Image.fromarray(GREY))], 3)


@pytest.mark.parametrize("channels", [2, 3, 4], ids=["grey and alpha", "colour", "colour and alpha"])
def test_a_png_of_sixteen_bits_keeps_them(channels: int) -> None:
    stored = RNG.integers(0, 65536, (7, 9, channels)).astype(np.uint16)
    colours = channels_first(stored)[: 3 if channels > 2 else 1]
    np.testing.assert_array_equal(read([imagecodecs.png_encode(stored)], 2).pixels, colours)


@pytest.mark.parametrize("bits", [1, 2, 4, 8])
def test_a_palette_of_any_depth_is_resolved(bits: int) -> None:
    indices = RNG.integers(0, 2**bits, (7, 9)).astype(np.uint8)
    data = encode(palette_picture(indices, PALETTE[: 2**bits]), bits=bits)
    assert data[24] == bits
    np.testing.assert_array_equal(read([data], 2).pixels, channels_first(PALETTE[indices]))


@pytest.mark.parametrize(
    ("image", "names", "expected"),
    [
        (
            Image.fromarray(np.dstack([COLOUR, OPACITY])),
            ("red", "green", "blue", "alpha"),
            [*channels_first(COLOUR), OPACITY],
        ),
        (Image.fromarray(np.dstack([GREY, OPACITY]), "LA"), ("grey", "alpha"), [GREY, OPACITY]),
        (palette_picture(GREY, PALETTE), ("red", "green", "blue", "index"), [*channels_first(PALETTE[GREY]), GREY]),
        (Image.fromarray(GREY), ("grey",), [GREY]),
    ],
    ids=["RGBA", "LA", "palette", "grey"],
)
def test_a_mask_is_read_with_all_its_channels(image: Image.Image, names: tuple[str, ...], expected: object) -> None:
    mask = read_mask(encode(image), 2)
    assert mask.names == names
    np.testing.assert_array_equal(mask.pixels, expected)


def test_a_transparent_colour_is_alpha() -> None:
    indices = np.array([[0, 1], [2, 1]], np.uint8)
    mask = read_mask(encode(palette_picture(indices, PALETTE), transparency=1), 2)
    np.testing.assert_array_equal(mask.pixels[mask.names.index("alpha")], np.where(indices == 1, 0, 255))
