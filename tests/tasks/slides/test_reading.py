"""Slides are read tile by tile, with tifffile and Pillow as oracles, and what lies is refused by its header."""

import hashlib
import os
import struct
from contextlib import nullcontext, suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from fsspec.implementations.local import LocalFileSystem
from PIL import Image
from pydicom import Dataset
from skimage.data import immunohistochemistry

from tasks.cohort.reading import NoImage, Unreadable
from tasks.cohort.slides.opening import inspect, opened
from tasks.cohort.slides.slide import WHITE, Slide
from tasks.storage.ranges import RangedFile
from tests.soak import SOAK
from tests.tasks.slides.made import (
    Pixels,
    as_jpeg,
    file_of,
    glass,
    levels_of,
    with_tissue,
    write_dicom,
    write_svs,
    write_tiff,
)


@pytest.fixture(scope="module")
def histology() -> Pixels:
    """A stained section from scikit-image, with sides that are no multiples of a tile's."""
    return np.ascontiguousarray(immunohistochemistry()[:300, :420])


def whole(slide: Slide, level: int) -> Pixels:
    of = slide.levels[level]
    return slide.region(level, 0, 0, of.height, of.width)


@pytest.mark.parametrize("how", [{}, {"compression": "zlib"}, {"compression": "lzw", "predictor": True}, {"ome": True}])
def test_every_level_has_the_pixels_that_were_stored(tmp_path: Path, histology: Pixels, how: dict[str, Any]) -> None:
    path = write_tiff(tmp_path / "a.tif", histology, levels=3, **how)
    with opened([file_of(path)]) as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)
        for level, stored in enumerate(levels_of(histology, 3)):
            np.testing.assert_array_equal(whole(slide, level), stored)


@pytest.mark.parametrize("compression", ["jpeg", "jpeg2000"])
def test_compressed_tiles_are_decoded_as_tifffile_does(tmp_path: Path, histology: Pixels, compression: str) -> None:
    path = write_tiff(tmp_path / "a.tif", histology, compression=compression)
    with opened([file_of(path)]) as slide:
        for level in range(2):
            np.testing.assert_array_equal(whole(slide, level), tifffile.imread(path, level=level))


def test_a_region_is_the_same_as_a_part_of_the_whole_and_white_beyond(tmp_path: Path, histology: Pixels) -> None:
    with opened([file_of(write_tiff(tmp_path / "a.tif", histology))]) as slide:
        np.testing.assert_array_equal(slide.region(0, 50, 70, 90, 33), histology[50:140, 70:103])
        corner = slide.region(0, 290, 400, 40, 40)
    np.testing.assert_array_equal(corner[:10, :20], histology[290:, 400:])
    assert (corner[10:] == WHITE).all() and (corner[:, 20:] == WHITE).all()


@pytest.mark.parametrize("jpeg", [False, True])
def test_a_series_of_dicom_is_one_slide(tmp_path: Path, histology: Pixels, jpeg: bool) -> None:
    paths = write_dicom(tmp_path / "series", histology, levels=3, jpeg=jpeg)
    files = [file_of(path) for path in reversed(paths)]
    with opened(files) as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)
        assert [level[:2] for level in slide.levels] == [(300, 420), (150, 210), (75, 105)]
        for level, stored in enumerate(levels_of(histology, 3)):
            first = np.full((64, 64, 3), WHITE, np.uint8)
            first[: len(stored), : stored.shape[1]] = stored[:64, :64]
            expected = np.asarray(Image.open(BytesIO(as_jpeg(first)))) if jpeg else first
            np.testing.assert_array_equal(slide.region(level, 0, 0, 64, 64), expected)
    headers = [inspect(file_of(path)) for path in paths]
    assert len({header.series for header in headers}) == 1
    assert {(header.modality, header.patient, header.decoded) for header in headers} == {("SM", "Doe-1", 0)}


def test_labels_and_macros_are_no_levels(tmp_path: Path) -> None:
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    path = write_svs(tmp_path / "a.svs", with_tissue(64, 64, 64, 128), hidden=red)
    with opened([file_of(path)]) as slide:
        assert [level[:2] for level in slide.levels] == [(256, 384), (128, 192)]
        assert slide.microns_per_pixel == pytest.approx(0.499)
        assert not any((whole(slide, level) == (255, 0, 0)).all(-1).any() for level in range(2))


def test_a_label_alone_is_no_slide(tmp_path: Path) -> None:
    *_, label = write_dicom(tmp_path / "series", glass(64, 64))
    with pytest.raises(Unreadable, match="none holds a level"), opened([file_of(label)]):
        pass


def test_a_level_that_is_damaged_is_not_left_out_in_silence(tmp_path: Path) -> None:
    fine, coarse, _ = write_dicom(tmp_path / "series", glass(128, 128))
    data = coarse.read_bytes()
    at = data.index(struct.pack("<HH", 0x0048, 0x0006))  # TotalPixelMatrixColumns
    coarse.write_bytes(data[:at] + struct.pack("<HH", 0x0048, 0x0099) + data[at + 4 :])
    with pytest.raises(Unreadable, match="1 of 2 levels"), opened([file_of(fine), file_of(coarse)]):
        pass


@pytest.mark.parametrize("form", ["TIFF", "OME-TIFF", "DICOM"])
@pytest.mark.parametrize("height", [0.505, 1.0])
def test_pixels_that_are_not_square_are_refused(tmp_path: Path, form: str, height: float) -> None:
    path, pixels = tmp_path / "a.tif", glass(128, 128)
    if form == "DICOM":
        measures = Dataset()
        measures.PixelSpacing, measures.SliceThickness = [height / 1000, 0.0005], 0.001
        kind = Dataset()
        kind.FrameType = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"]
        shared = Dataset()
        shared.PixelMeasuresSequence, shared.WholeSlideMicroscopyImageFrameTypeSequence = [measures], [kind]
        path = write_dicom(tmp_path / "series", pixels, 1, SharedFunctionalGroupsSequence=[shared])[0]
    elif form == "TIFF":
        write_tiff(path, pixels, 1, None, resolution=(1e4 / 0.5, 1e4 / height), resolutionunit="CENTIMETER")
    else:
        sides = {"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeY": height}
        write_tiff(path, pixels, 1, None, ome=True, metadata=sides)
    refused = pytest.raises(Unreadable, match=r"pixels of 1 x 0.5 microns") if height == 1 else nullcontext()
    with refused, opened([file_of(path)]) as slide:
        assert slide.microns_per_pixel == pytest.approx(0.5)


def _retagged(path: Path, code: int, value: int) -> Path:
    with tifffile.TiffFile(path, mode="r+b") as file:
        file.pages[0].tags[code].overwrite(value)  # type: ignore[union-attr]
    return path


def _jpeg_in_a_smaller_tile(folder: Path) -> Path:
    return _retagged(_retagged(write_tiff(folder / "a.tif", glass(256, 256), 1, compression="jpeg"), 322, 32), 323, 128)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: _retagged(write_tiff(folder / "a.tif", glass(128, 128)), 256, 2**30), "damaged|sides of up to"),
        (lambda folder: write_tiff(folder / "a.tif", glass(8192, 64), 1, tile=(8192, 64)), "stored in pieces"),
        (_jpeg_in_a_smaller_tile, "compressed frame is 64 x 64 x 3"),
        (lambda folder: write_tiff(folder / "a.tif", glass(64, 64)[..., 0], photometric="minisblack"), "RGB of 8 bits"),
    ],
)
def test_a_header_that_lies_or_asks_for_too_much_is_refused(tmp_path: Path, make: Any, reason: str) -> None:
    with pytest.raises(Unreadable, match=reason), opened([file_of(make(tmp_path))]) as slide:
        whole(slide, 0)


def test_more_frames_than_the_file_holds_are_refused(tmp_path: Path) -> None:
    paths = write_dicom(tmp_path / "series", glass(128, 128), NumberOfFrames=2**20)
    with pytest.raises(Unreadable, match="holds"):
        inspect(file_of(paths[0]))


@pytest.mark.parametrize("content", [b"no image", bytes(200), b""])
def test_whatever_is_no_slide_is_no_image(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(NoImage, match="no slide"):
        inspect(file_of(tmp_path / "a"))


@pytest.fixture(scope="module", params=["tiff", "jpeg", "dicom"])
def whole_file(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    folder, pixels = tmp_path_factory.mktemp("whole"), with_tissue(0, 0, 64, 64, (128, 128))
    if request.param == "dicom":
        return write_dicom(folder / "series", pixels, jpeg=True)[0].read_bytes()
    how = {"compression": "jpeg"} if request.param == "jpeg" else {}
    return write_tiff(folder / "a.tif", pixels, **how).read_bytes()


@pytest.mark.parametrize("seed", range(1000 if SOAK else 20))
def test_damage_is_a_reason_and_nothing_else(tmp_path: Path, whole_file: bytes, seed: int) -> None:
    generator = np.random.default_rng(seed)
    data = bytearray(whole_file)
    ends = [*range(min(2000, len(data))), *range(len(data) - 600, len(data))]
    for at in generator.choice(ends, 12, replace=False):
        data[at] = generator.integers(256)
    (tmp_path / "a").write_bytes(data)
    with suppress(Unreadable), opened([file_of(tmp_path / "a")]) as slide:
        for level in range(len(slide.levels)):
            slide.region(level, 0, 0, 64, 64)


class _Failing(LocalFileSystem):  # type: ignore[misc]
    """A storage that is away for what lies behind the first bytes."""

    def cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if start:
            raise ConnectionError("away")
        data: bytes = super().cat_file(path, 0, 256)
        return data


def test_a_storage_that_is_away_is_no_damage(tmp_path: Path) -> None:
    path = write_tiff(tmp_path / "a.tif", glass(512, 512))
    with pytest.raises(ConnectionError):
        inspect(RangedFile(_Failing(), str(path)))


def test_ranges_are_the_file(tmp_path: Path) -> None:
    content = os.urandom(2**20 + 17)
    (tmp_path / "a").write_bytes(content)
    file = file_of(tmp_path / "a")
    for start, size in ((0, 10), (2**19, 2**18 + 5), (2**20, 100), (2**21, 1)):
        file.seek(start)
        assert file.read(size) == content[start : start + size]
    assert file.digest() == hashlib.sha256(content).hexdigest()
