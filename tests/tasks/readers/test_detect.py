import gzip
from collections.abc import Callable
from io import BytesIO

import nibabel
import numpy as np
import pytest
from PIL import Image

from tasks.cohort.readers import detect, read
from tasks.cohort.reading import NoImage, Unreadable
from tasks.demo.cohort import dicom_slices
from tasks.demo.phantom import Phantom

PICTURE = np.arange(48, dtype=np.uint8).reshape(6, 8)
NIFTI = nibabel.Nifti1Image(PICTURE.T, np.eye(4)).to_bytes()


def picture(format: str) -> bytes:
    sink = BytesIO()
    Image.fromarray(PICTURE).save(sink, format)
    return sink.getvalue()


def npy() -> bytes:
    sink = BytesIO()
    np.save(sink, PICTURE)
    return sink.getvalue()


def dicom() -> bytes:
    drawn = Phantom(PICTURE.astype(np.float32) / 48, np.zeros(PICTURE.shape, bool), np.diag([1.0, -1.0, -1.0, 1.0]))
    return next(dicom_slices(drawn, "detected"))


@pytest.mark.parametrize(
    ("make", "format"),
    [
        (lambda: picture("PNG"), "png"),
        (lambda: picture("JPEG"), "jpeg"),
        (lambda: picture("TIFF"), "tiff"),
        (npy, "npy"),
        (dicom, "dicom"),
        (lambda: NIFTI, "nifti"),
        (lambda: gzip.compress(NIFTI), "nifti"),
        (nibabel.Nifti2Image(PICTURE.T, np.eye(4)).to_bytes, "nifti"),
    ],
)
def test_the_format_is_told_by_the_content(make: Callable[[], bytes], format: str) -> None:
    assert detect(make()) == format
    assert read([make()], 2).pixels.shape == (1, 6, 8)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "the file is empty: copy it again"),
        (b"id,uri\n1,a.png\n", "not a known image format: .*narrow the source"),
        (b"\0" * 600, "not a known image format"),
        (b"\x89PN", "not a known image format"),
        (gzip.compress(b"no image at all"), "not a known image format"),
        (gzip.compress(NIFTI)[:4], "not a known image format"),
        (b"\x1f\x8b\x07" + gzip.compress(NIFTI)[3:], r"damaged gzip \(BadGzipFile\): copy the file again"),
        (gzip.compress(NIFTI)[:10] + b"\xff" * 40, "damaged gzip"),
    ],
    ids=["empty", "text", "zeros", "short", "gzipped text", "cut gzip", "gzip method", "gzip stream"],
)
def test_what_cannot_be_read_is_refused_with_what_to_do(data: bytes, message: str) -> None:
    for refuse in (lambda: detect(data), lambda: read([data], 2)):
        with pytest.raises(Unreadable, match=message):
            refuse()


def test_a_pointer_of_git_lfs_is_no_file_that_may_be_left_out() -> None:
    with pytest.raises(Unreadable, match="git lfs pull") as error:
        detect(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n")
    assert not isinstance(error.value, NoImage)
