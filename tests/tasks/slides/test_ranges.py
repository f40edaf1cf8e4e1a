"""Slides on S3 are read by ranges: the same bag as on a disk, by a small part of the file's bytes."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.cohort.slides.bag import make_bag
from tasks.cohort.slides.config import SlideConfig
from tasks.cohort.slides.opening import opened
from tasks.storage.location import Location
from tests.tasks.slides.made import file_of, with_tissue, write_tiff


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A slide of 50 MB, whose tissue is in one corner."""
    return write_tiff(tmp_path / "a.tif", with_tissue(256, 512, 256, 256, of=(3072, 4096)), levels=3, tile=(256, 256))


def test_a_slide_on_s3_makes_the_same_bag_by_a_part_of_its_bytes(
    slide: Path, bucket: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    (bucket / "a.tif").write(slide.read_bytes())
    asked: list[int] = []
    of_s3 = type(bucket.filesystem)
    read = of_s3.cat_file

    def counted(filesystem: Any, path: str, start: int, end: int) -> bytes:
        asked.append(end - start)
        data: bytes = read(filesystem, path, start=start, end=end)
        return data

    monkeypatch.setattr(of_s3, "cat_file", counted)
    config = SlideConfig(level=0, tile=128, tiles=4)
    with opened([(bucket / "a.tif").open()]) as there, opened([file_of(slide)]) as here:
        for one, other in zip(make_bag(there, config), make_bag(here, config), strict=True):
            np.testing.assert_array_equal(one, other)
    assert sum(asked) < slide.stat().st_size / 5 and len(asked) < 40


def test_a_stamp_is_the_same_by_a_listing_and_by_name(bucket: Location, tmp_path: Path) -> None:
    for folder in (bucket, Location(url=str(tmp_path))):
        (folder / "a.tif").write(b"one")
        url = (folder / "a.tif").url
        assert (folder / "a.tif").stamp() == folder.stamps_of([url])[url]
