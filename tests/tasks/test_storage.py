from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from models.errors import ConfigurationError
from tasks.cohort.config import CohortConfig
from tasks.cohort.listing import list_images, would_list
from tasks.storage.location import Location, Unavailable
from tasks.storage.s3 import PatientS3
from tasks.store.template import open_store
from tasks.upkeep.verify import verify
from tasks.work.pending import check_ours, erase
from tests.tasks.outputs import Cohort, carry_out


@pytest.fixture(params=["local", "s3"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Location:
    return Location(url=str(tmp_path)) if request.param == "local" else request.getfixturevalue("bucket")


@pytest.fixture(params=["local", "s3"], scope="module")
def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Location:
    """A folder or bucket for all tests of this module that take names of their own in it."""
    if request.param == "local":
        return Location(url=str(tmp_path_factory.mktemp("shared")))
    location = Location(url="s3://shared", endpoint_url=request.getfixturevalue("s3_endpoint"))
    location.filesystem.mkdir("shared")
    return location


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
        ("$HOME/out", r"begins with '\$HOME', which is not filled in here"),
        ("${DATA}", "which is not filled in here"),
        ("%USERPROFILE%\\out", "which is not filled in here"),
        ("C:\\data\\out", r"begins with 'C:\\\\', which is not filled in here"),
        ("s3://", "names no bucket"),
        ("s3://buck*/x", "names no bucket"),
        ("s3://b/x/../y", "read differently"),
        ("s3://b//x", "read differently"),
        ("s3://b/x::y", "read differently"),
        ({"url": "s3://b", "endpoint_url": "ftp://host"}, "String should match pattern"),
        ({"url": "s3://b", "secret": "x"}, "Extra inputs are not permitted"),
    ],
)
def test_other_places_are_refused(value: object, message: str) -> None:
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
        list_images(CohortConfig(source=cohort))
    assert "S3 at 127.0.0.1:9 does not answer" in caplog.text and "Doe" not in caplog.text


NAMES = (
    "scans [1]", "chest*", "chest?", "**", "{a,b}", "a#b", "100%", "a%20b", "a+b", "a b ", "Größe", "e\u0301", "..x",
    "x?versionId=3", "x&y=z", "'q\"", "-x", "~x", "a:b", "a\nb", "[", "[!a]", "$HOME",
)  # fmt: skip
"""Folder names, most of which are patterns to a glob, a shell or a URL."""


@pytest.mark.parametrize("name", NAMES)
def test_no_name_is_a_pattern(name: str, shared: Location) -> None:
    here, like = shared / f"of {NAMES.index(name)}", ("scans 1", "chest1", "chest12", "a", "b", "x", "100", "sub/a")
    for other in like:
        (here / other / "f.bin").write(b"other")
    folder = here / name
    file = folder / "f.bin"
    assert not folder.exists() and folder.below() == [] and folder.names() == [] and folder.sizes() == {}
    file.write(b"12")
    (folder / "sub/g.bin").write(b"3")
    assert folder.exists() and file.exists() and not (folder / "g.bin").exists()
    assert (file.read(), file.size()) == (b"12", 2)
    assert not file.create(b"again")
    assert folder.names() == ["f.bin"]
    assert folder.sizes() == {"f.bin": 2, "sub/g.bin": 1}
    assert folder.stamps().keys() == {"f.bin", "sub/g.bin"}
    assert folder.stamps_of([file.url]).keys() == folder.times_of([file.url]).keys() == {file.url}
    assert folder.folder == folder.path
    assert folder.files() == folder.below() == [file.url, (folder / "sub/g.bin").url]
    assert folder.read_all([file.url, (folder / "sub/g.bin").url]) == [b"12", b"3"]
    assert (folder / "*.bin").files() == [file.url]
    assert [image.name for image in list_images(CohortConfig(source=folder))] == ["f.bin", "sub/g.bin"]
    with file.filesystem.open(file.path, "rb") as opened:
        assert opened.read() == b"12"
    folder.remove()
    assert not file.exists() and folder.names() == []
    assert here.sizes() == {f"{other}/f.bin": 5 for other in like}


def test_erasing_an_output_touches_no_other(folder: Location) -> None:
    outputs = [folder / name for name in ("chest1", "chest2", "chest[12]", "chest*", "chest?")]
    for output in outputs:
        for name in ("plan.json", "report/index.html", "explanations.zarr/zarr.json"):
            (output / name).write(b"x")
    for number, output in enumerate(outputs[2:], 3):
        erase(output)
        assert [len(one.sizes()) for one in outputs] == [3 if n in (0, 1) or n >= number else 0 for n in range(5)]


def test_an_output_whose_name_matches_another_is_not_taken_for_it(folder: Location) -> None:
    (folder / "other/notes.txt").write(b"x")
    check_ours(folder / "*")
    check_ours(folder / "**")
    with pytest.raises(ConfigurationError, match="holds files that are of no run"):
        check_ours(folder / "other")


@pytest.mark.parametrize(
    ("source", "file", "lists"),
    [
        ("/d/", "/d/x", True),
        ("/d", "/d/s/x", True),
        ("/d", "/e/x", False),
        ("/d", "/dx", False),
        ("/d/*.png", "/d/a.png", True),
        ("/d/*.png", "/d/s/a.png", False),
        ("/d/**/*.png", "/d/s/a.png", True),
        ("/d [1]/", "/d [1]/a", True),
        ("/d [1]/", "/d 1/a", False),
        ("/d [1]/*", "/d [1]/a", True),
        ("s3://b/x*", "s3://b/x*/y", True),
        ("s3://b", "s3://b/x/y", True),
    ],
)
def test_what_a_source_would_list(source: str, file: str, lists: bool) -> None:
    assert would_list(Location(url=source), Location(url=file)) is lists


def test_a_run_whose_names_are_patterns_stays_within_them(folder: Location, tmp_path: Path) -> None:
    (folder / "chest 1/plan.json").write(b"of another")
    output = folder / "chest [12]*"
    cohort = Cohort(tmp_path / "scans [1]", range(3))
    content = cohort.content(output, explainers=["saliency"])
    for overwrite in (False, True):
        assert carry_out(content, overwrite=overwrite, report=True).explained == 3
        assert verify(output) == []
        assert open_store(output)["attribution"].notnull().all()
    assert (folder / "chest 1").sizes() == {"plan.json": 10}


def test_a_file_that_is_written_piece_by_piece_is_there_whole_or_not_at_all(
    folder: Location, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.storage.location._PART", 5 * 2**20)  # the least that S3 takes
    location, pieces = folder / "large.bin", [bytes([number]) * 3_000_000 for number in range(5)]
    for written in (pieces, pieces[:1]):
        with location.writing() as file:
            for piece in written:
                file.write(piece)
        assert location.read() == b"".join(written)
    with suppress(RuntimeError), location.writing() as file:
        for piece in pieces:
            file.write(piece)
        raise RuntimeError
    assert location.read() == pieces[0]
    assert folder.sizes() == {"large.bin": 3_000_000}


@pytest.mark.parametrize("refused", ["upload_part", "complete_multipart_upload"])
def test_a_failed_upload_leaves_no_parts(refused: str, bucket: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tasks.storage.location._PART", 5 * 2**20)
    location, filesystem = bucket / f"{refused}.bin", bucket.filesystem
    location.write(b"before")
    call = filesystem.call_s3

    def fails(method: str, *arguments: Any, **options: Any) -> Any:
        if method == refused and options.get("PartNumber") != 1:
            raise Unavailable("S3 answered InternalError to all attempts")
        return call(method, *arguments, **options)

    monkeypatch.setattr(filesystem, "call_s3", fails)
    with suppress(Unavailable), location.writing() as file:
        for _ in range(5):
            file.write(bytes(3_000_000))
    assert location.read() == b"before"
    name, _, key = location.path.partition("/")
    assert not call("list_multipart_uploads", Bucket=name, Prefix=key).get("Uploads")
