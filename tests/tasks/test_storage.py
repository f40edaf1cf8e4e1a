from pathlib import Path

import pytest
from pydantic import ValidationError

from tasks.cohort.sources import list_images
from tasks.storage.location import Location
from tasks.storage.s3 import PatientS3


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(url=str(tmp_path)) if request.param == "local" else request.getfixturevalue("bucket")


def test_what_is_written_is_read_back_and_listed(folder: Location) -> None:
    for name in ("b/two.bin", "a.bin", "b/one.bin", ".hidden", "b/.hidden/x.bin"):
        (folder / name).write(name.encode())
    assert folder.files() == [(folder / name).url for name in ("a.bin", "b/one.bin", "b/two.bin")]
    assert (folder / "b/*.bin").files() == [(folder / name).url for name in ("b/one.bin", "b/two.bin")]
    assert (folder / "b/two.bin").read() == b"b/two.bin"
    assert (folder / "a.bin").exists()
    assert not (folder / "c.bin").exists()


def test_a_missing_file_among_several_gives_its_error_alone(folder: Location) -> None:
    (folder / "a.bin").write(b"a")
    (folder / "c.bin").write(b"c")
    found = folder.read_all([(folder / name).url for name in ("c.bin", "missing.bin", "a.bin")])
    assert found[0] == b"c"
    assert isinstance(found[1], FileNotFoundError)
    assert found[2] == b"a"


def test_writing_replaces_the_whole_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    location = Location(url=str(tmp_path / "x/file.json"))
    location.write(b"long content")
    location.write(b"short")
    assert location.read() == b"short"
    assert [path.name for path in (tmp_path / "x").iterdir()] == ["file.json"]


def test_text_alone_is_a_location_and_local_paths_become_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/")
    assert Location.model_validate("out/demo").url == "/out/demo"
    assert Location.model_validate("s3://bucket/key").url == "s3://bucket/key"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("http://example.org/x", "neither a local path nor an s3:// URL"),
        ({"url": "s3://b", "endpoint_url": "http://key:secret@host"}, "holds credentials"),
        ({"url": "s3://b", "endpoint_url": "ftp://host"}, "String should match pattern"),
        ({"url": "s3://b", "secret": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_other_places_and_credentials_are_refused(value: object, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Location.model_validate(value)


def test_a_glob_gives_files_alone_and_names_with_brackets_are_read(folder: Location) -> None:
    for name in ("data/a[1].png", "data/sub/b.png"):
        (folder / name).write(name.encode())
    assert (folder / "data/*").files() == [(folder / "data/a[1].png").url]
    assert folder.read_all([(folder / "data/a[1].png").url]) == [b"data/a[1].png"]


def test_whoever_waits_for_s3_is_told(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(PatientS3, "retries", 3)
    monkeypatch.setattr("tasks.storage.s3._TOLD_AT", 1)
    cohort = Location(url="s3://hospital/of-Doe/", endpoint_url="http://127.0.0.1:9")
    with pytest.raises(OSError, match=r"at http://127\.0\.0\.1:9 cannot be listed"):
        list_images(cohort, cohort)
    assert "S3 at 127.0.0.1:9 does not answer" in caplog.text and "Doe" not in caplog.text
