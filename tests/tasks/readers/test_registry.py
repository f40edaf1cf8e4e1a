"""A reader that is named in `READERS` takes part in all there is, and every one of them keeps to the same terms."""

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image

from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.pseudonyms import Key
from tasks.cohort.readers import READERS, detect, inspect, read
from tasks.cohort.reading import Declared, Decoded, Reader, Request, Unreadable, check_decoded
from tasks.cohort.selection import Selection
from tasks.cohort.survey import Survey, survey
from tests.tasks.readers.test_detect import NIFTI, dicom, npy, picture

SAMPLES: dict[str, Callable[[], bytes]] = {
    "dicom": dicom,
    "png": lambda: picture("PNG"),
    "jpeg": lambda: picture("JPEG"),
    "tiff": lambda: picture("TIFF"),
    "npy": npy,
    "nifti": lambda: NIFTI,
}
GRAYMAP = re.compile(rb"P5\n# series (\S*) slice (\d+)\n(\d+) (\d+)\n255\n")


class Graymap(Reader):
    """Portable graymaps, whose comment names a series and the place in it."""

    formats: ClassVar = {"pgm": "PGM"}
    joins_files = True

    def recognise(self, data: bytes) -> str | None:
        return "pgm" if data.startswith(b"P5\n") else None

    def header(self, data: bytes) -> Declared:
        found = GRAYMAP.match(data)
        assert found
        return Declared(int(found[3]) * int(found[4]), found[1].decode(), "OT")

    def decode(self, parts: Sequence[bytes], request: Request) -> Decoded:
        check_decoded(4 * sum(self.header(part).values for part in parts), request.largest)
        slices = {}
        for part in parts:
            found = GRAYMAP.match(part)
            assert found
            values = np.frombuffer(part, np.uint8, offset=found.end()).reshape(int(found[4]), int(found[3]))
            slices[int(found[2])] = values.astype(np.float32)
        return Decoded(np.stack([slices[place] for place in sorted(slices)])[None])


@pytest.fixture
def graymaps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the readers be those there are, and one more."""
    monkeypatch.setattr("tasks.cohort.readers.READERS", (*READERS, Graymap()))


def graymap(values: np.ndarray, series: str = "", place: int = 0) -> bytes:
    height, width = values.shape
    return f"P5\n# series {series} slice {place}\n{width} {height}\n255\n".encode() + values.tobytes()


def surveyed(folder: Path, spatial_dims: int, only: Selection | None = None, **changes: object) -> Survey:
    config = CohortConfig.model_validate({"source": f"{folder}/", "identifiers": "as given", **changes})
    return survey(config, spatial_dims, Key.make(), only=only or Selection())


def decoded(found: Survey, entry: Entry, spatial_dims: int) -> np.ndarray:
    source = found.sources(entry.id)
    assert source
    return read([Path(uri).read_bytes() for uri in source.uris], spatial_dims).pixels


def test_every_format_has_one_reader_and_a_sample() -> None:
    formats = [format for reader in READERS for format in reader.formats]
    assert sorted(formats) == sorted(SAMPLES)


@pytest.mark.parametrize("format", SAMPLES)
def test_every_reader_keeps_to_the_terms(format: str) -> None:
    data = SAMPLES[format]()
    assert detect(data) == inspect(data).format == format
    assert inspect(data).decoded == read([data], 2).pixels.nbytes
    assert read([data], 2, largest=inspect(data).decoded)
    with pytest.raises(Unreadable, match=r"declares pixels of 192 bytes as float32, and cohort\.largest_image is 191"):
        read([data], 2, largest=inspect(data).decoded - 1)


@pytest.mark.usefixtures("graymaps")
def test_a_reader_is_asked_once_it_is_named(tmp_path: Path) -> None:
    values = np.arange(20, dtype=np.uint8).reshape(4, 5)
    (tmp_path / "a.pgm").write_bytes(graymap(values))
    Image.fromarray(values).save(tmp_path / "b.png")
    found = surveyed(tmp_path, 2)
    assert [(entry.format, entry.reason, entry.facts[0].decoded) for entry in found.entries] == [
        ("pgm", None, 80),
        ("png", None, 80),
    ]
    for entry in found.entries:
        np.testing.assert_array_equal(decoded(found, entry, 2)[0], values)
    assert [entry.id for entry in surveyed(tmp_path, 2, Selection(modality=("OT",))).entries] == ["a.pgm"]


@pytest.mark.usefixtures("graymaps")
def test_a_reader_that_joins_files_makes_volumes_of_series(tmp_path: Path) -> None:
    values = np.arange(60, dtype=np.uint8).reshape(3, 4, 5)
    for name, place in zip("cab", range(3), strict=True):
        (tmp_path / f"{name}.pgm").write_bytes(graymap(values[place], "7", place))
    found = surveyed(tmp_path, 3)
    (entry,) = found.entries
    assert (entry.id, len(entry.facts)) == ("a.pgm", 3)
    np.testing.assert_array_equal(decoded(found, entry, 3)[0], values)


@pytest.mark.usefixtures("graymaps")
def test_a_new_reader_is_guarded_as_all_are(tmp_path: Path) -> None:
    (tmp_path / "damaged.pgm").write_bytes(b"P5\nno header")
    (tmp_path / "large.pgm").write_bytes(graymap(np.zeros((40, 40), np.uint8)))
    (tmp_path / "notes.txt").write_bytes(b"none")
    reasons = {entry.id: entry.reason for entry in surveyed(tmp_path, 2, largest_image=6399).entries}
    assert reasons["damaged.pgm"] == (
        "damaged or unsupported pgm (AssertionError): copy the file again from its source, or convert it"
    )
    assert "declares pixels of 6400 bytes" in str(reasons["large.pgm"])
    assert "expected DICOM, PNG, JPEG, TIFF, NPY, NIfTI or PGM; narrow the source" in str(reasons["notes.txt"])
    with pytest.raises(Unreadable, match="2 files for one image, but only DICOM and PGM have series: name the one npy"):
        read([npy(), npy()], 3)


def test_without_it_there_is_no_such_format(tmp_path: Path) -> None:
    (tmp_path / "a.pgm").write_bytes(graymap(np.zeros((4, 5), np.uint8)))
    (entry,) = surveyed(tmp_path, 2).entries
    assert entry.format is None and "not a known image format" in str(entry.reason)
