"""Names of files as people have them, and names that are not those of files: found, or set aside with the reason."""

import errno
import os
import pickle
import socket
from pathlib import Path
from typing import Any
from unicodedata import normalize

import pytest

from tasks.cohort import rows, sources
from tasks.cohort.config import CohortConfig
from tasks.cohort.listing import list_images
from tasks.cohort.sources import Listed, Source
from tasks.plain import plain
from tasks.storage.location import Location
from tasks.work.images import find_again
from tests.tasks.outputs import Cohort, carry_out, promised
from tests.tasks.test_cohort import picture, series, surveyed


def table(folder: Path, *uris: str) -> Path:
    (folder / "c.csv").write_text("\n".join(["uri", *uris]))
    return folder / "c.csv"


@pytest.mark.parametrize("stored", ["NFC", "NFD"])
@pytest.mark.parametrize("named", ["NFC", "NFD"])
def test_accents_are_found_however_they_are_stored(tmp_path: Path, stored: Any, named: Any) -> None:
    path = picture(tmp_path / normalize(stored, "Röntgen") / normalize(stored, "é.png"))
    mixed = picture(tmp_path / normalize(stored, "Röntgen") / normalize(named, "ü.png"))
    uris = [normalize(named, name) for name in ("Röntgen/é.png", "Röntgen/ü.png")]
    assert [found.uris for found in surveyed(table(tmp_path, *uris))] == [(str(path),), (str(mixed),)]
    assert [found.id for found in surveyed(table(tmp_path, *uris))] == uris


def test_accents_are_found_in_a_bucket(bucket: Location) -> None:
    (bucket / normalize("NFD", "é/ü.png")).write(b"x")
    named = [normalize("NFC", "é/ü.png"), "a.png", "ö.png", "s3://elsewhere/ü.png"]
    names = rows._as_stored(bucket, bucket.url, named, sources.fence(bucket))
    assert names == {named[0]: normalize("NFD", "é/ü.png"), "ö.png": "ö.png", named[3]: named[3]}


def test_backslashes_are_between_folders_unless_a_file_has_them(tmp_path: Path) -> None:
    below, with_backslash = picture(tmp_path / "a" / "1.png"), picture(tmp_path / "a\\2.png")
    found = surveyed(table(tmp_path, "a\\1.png", "a\\2.png", "a\\3.png"))
    assert [one.uris[0] for one in found] == [str(below), str(with_backslash), str(tmp_path / "a" / "3.png")]
    assert [one.id for one in found] == ["a/1.png", "a\\2.png", "a/3.png"]
    slices = series(tmp_path / "s" / "7", "s")
    assert surveyed(table(tmp_path, "s\\7\\"), 3)[0].uris == tuple(map(str, slices))


@pytest.mark.parametrize("uri", ["C:\\Doe\\1.png", "d:/Doe/1.png", "\\\\server\\Doe\\1.png"])
def test_drives_and_servers_of_windows_are_refused(tmp_path: Path, uri: str) -> None:
    with pytest.raises(ValueError, match=r"`uri` in row 2 of .* begins with a drive or server of Windows") as error:
        surveyed(table(tmp_path, "a.png", uri))
    assert "Doe" not in str(error.value)


def test_backslashes_do_not_lead_out_of_the_folder(tmp_path: Path) -> None:
    picture(tmp_path / "secret.png")
    (tmp_path / "c").mkdir()
    with pytest.raises(ValueError, match="lies outside"):
        surveyed(table(tmp_path / "c", "..\\secret.png"))


@pytest.mark.parametrize("folder", ["100% [1] %20", "scans [1]", "what?", "a*b", "{x}", "~", "a b", "#1;&", "s3:", "-"])
def test_folders_may_have_any_name(tmp_path: Path, folder: str) -> None:
    path = picture(tmp_path / folder / "[2] 5%41.png")
    for source in (f"{tmp_path / folder}/", tmp_path / folder, tmp_path):
        assert [found.uris for found in surveyed(source)] == [(str(path),)]
    assert [found.uris for found in surveyed(table(tmp_path, f"{folder}/[2] 5%41.png"))] == [(str(path),)]
    path.unlink()
    slices = series(tmp_path / folder, "s")
    assert [found.uris for found in surveyed(table(tmp_path, f"{folder}/"))] == [tuple(map(str, slices))]


def test_a_file_that_lies_there_under_two_names_is_one_image(tmp_path: Path) -> None:
    picture(tmp_path / "a" / "1.png")
    store = picture(tmp_path / "a" / ".annex" / "x.png")
    for name, target in (("2.png", "1.png"), ("3.png", store), ("4.png", "3.png")):
        (tmp_path / "a" / name).symlink_to(target)
    (tmp_path / "linked").symlink_to(tmp_path / "a")
    for source in (tmp_path / "a", tmp_path / "linked"):
        assert [(found.id, found.reason) for found in surveyed(f"{source}/")] == [("1.png", None), ("3.png", None)]


def odd_names(folder: Path) -> dict[str, str]:
    """Make what is no image, and say what is wrong with each."""
    picture(folder / "good.png")
    os.mkfifo(folder / "pipe.png")
    (folder / "loop.png").symlink_to("loop.png")
    (folder / "gone.png").symlink_to("nowhere.png")
    (folder / "device.png").symlink_to("/dev/zero")
    (folder / "out.png").symlink_to("/etc/hostname")
    listening = socket.socket(socket.AF_UNIX)
    here = os.getcwd()
    os.chdir(folder)  # a socket's name is short
    listening.bind("socket.png")
    os.chdir(here)
    listening.close()
    return {
        "pipe.png": "it is a pipe and no file",
        "loop.png": "it is a link that leads back to itself",
        "gone.png": "it is a link to a file that is not there",
        "device.png": "it is a link to a device and no file",
        "out.png": "it is a link that leads out of the cohort's folder",
        "socket.png": "it is a socket and no file",
    }


@pytest.mark.timeout(120)
def test_what_is_no_file_in_a_folder_is_set_aside(tmp_path: Path) -> None:
    expected = odd_names(tmp_path) | {"good.png": ""}
    found = {one.id: one.reason or "" for one in surveyed(f"{tmp_path}/")}
    assert {id: reason.partition(":")[0] for id, reason in found.items()} == expected
    assert str(tmp_path) not in repr(found)


@pytest.mark.timeout(120)
def test_what_is_no_file_in_a_table_is_set_aside(tmp_path: Path) -> None:
    picture(tmp_path / "good.png")
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to("link")
    os.mkfifo(tmp_path / "pipe")
    long = "x" * 400
    named = {
        "good.png": "",
        "pipe.png": "it is a pipe and no file",
        "loop": "it is a link that leads back to itself",
        "loop/a.png": "it is a link that leads back to itself",
        "good.png/a.png": "the file cannot be opened (NotADirectoryError)",
        "folder": "the file cannot be opened (IsADirectoryError)",
        f"{long}.png": "its name is longer than any that the file system can hold",
        f"{long}/a.png": "its name is longer than any that the file system can hold",
        "absent.png": "the file cannot be opened (FileNotFoundError)",
        "pipe/": "it is a pipe and no file",
        "link/": "it is a link that leads back to itself",
        f"{long}/": "its name is longer than any that the file system can hold",
        f"{long}/a/": "its name is longer than any that the file system can hold",
        "pipe/a/": "the file cannot be opened (NotADirectoryError)",
        "absent/": "the folder is empty, or not there",
    }
    expected = {name.rstrip("/"): reason for name, reason in named.items()}
    found = {one.id: (one.reason or "").partition(":")[0] for one in surveyed(table(tmp_path, *named))}
    assert found == expected


@pytest.fixture
def closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cohort of which one folder cannot be listed, which those who run tests as root can simulate alone."""
    for name in ("a/1.png", "a/closed/2.png", "b/3.png"):
        picture(tmp_path / name)
    listed = os.scandir

    def scandir(path: Any) -> Any:
        if os.path.basename(os.path.normpath(path)) == "closed":
            raise PermissionError(errno.EACCES, "denied", path)
        return listed(path)

    monkeypatch.setattr(os, "scandir", scandir)
    return tmp_path


@pytest.mark.parametrize("source", ["", "**/*.png", "*/*/*.png", "a*/**"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_a_folder_that_cannot_be_listed_is_set_aside(closed: Path, source: str, spatial_dims: int) -> None:
    found = {one.id.split("/")[-1]: one.reason for one in surveyed(f"{closed}/{source}", spatial_dims)}
    assert found["closed"] == "it is a folder that cannot be listed: give access to it, or leave it out"
    assert [name for name, reason in found.items() if reason] == ["closed"]


@pytest.mark.parametrize("source", ["b/", "a/*.png", "b*/*/*.png", "*/*.png"])
def test_a_folder_that_a_source_does_not_reach_needs_no_access(closed: Path, source: str) -> None:
    files = Location(url=f"{closed}/{source}").files()
    assert not [file for file in files if "closed" in file]


def test_a_folder_of_a_table_that_cannot_be_listed_is_its_rows_reason(closed: Path) -> None:
    whole, part, fine = surveyed(table(closed, "a/closed/", "a/", "b/"))
    assert (whole.reason or "").startswith("it is a folder that cannot be listed")
    assert (part.reason or "").startswith("1 of the 2 files of the folder cannot be read: it is a folder that cannot")
    assert fine.reason is None


def test_a_source_that_cannot_be_listed_is_refused(closed: Path) -> None:
    with pytest.raises(ValueError, match="cannot be listed: give access"):
        surveyed(f"{closed}/a/closed/")


def test_a_run_explains_what_is_an_image_beside_what_is_no_file(tmp_path: Path) -> None:
    """Among them an image whose name is not UTF-8; a plan that is gone on with finds it again."""
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(2))
    for name in ("manifest.csv", "0-mask.npy", "1-mask.npy"):
        (cohort.folder / name).unlink()
    odd = len(odd_names(cohort.folder))
    os.rename(cohort.folder / "1.npy", os.fsencode(cohort.folder) + b"/K\xf6ln-\x1b[31m.npy")
    for identifiers in ("pseudonymous", "as given"):
        content = cohort.content(output, cohort={"source": f"{cohort.folder}/", "identifiers": identifiers})
        summary = carry_out(content, report=True, overwrite=True)
        assert (summary.explained, summary.quarantined) == (2, odd + 2)  # the weights are no image, good.png has no fit
        plan, entries = promised(output)
        assert all(entry.id.isascii() for entry in entries)
        source = next(filter(None, (find_again(output, plan)(entry.id) for entry in entries if not entry.reason)))
        assert source == pickle.loads(pickle.dumps(source))
    assert "K\\xf6ln-\x1b[31m.npy" in [entry.id for entry in entries]
    assert plain(os.fsdecode(b"K\xf6ln\x1b")) == "K\\udcf6ln\\x1b"


def test_a_run_of_which_nothing_can_be_explained_ends_with_a_report(tmp_path: Path) -> None:
    output = Location(url=str(tmp_path / "out"))
    cohort = Cohort(tmp_path / "cohort", range(3))
    for number in range(3):
        path = cohort.folder / f"{number}.npy"
        path.write_bytes(path.read_bytes()[:20])
    summary = carry_out(cohort.content(output), report=True)
    assert (summary.images, summary.explained, summary.not_explained) == (3, 0, 1.0)
    assert "damaged" in (output / "report/index.html").read().decode()


def test_two_names_that_are_the_same_as_text_are_refused(tmp_path: Path) -> None:
    for name in (b"/\xe4.png", b"/\\xe4.png"):
        os.close(os.open(os.fsencode(tmp_path) + name, os.O_CREAT))
    with pytest.raises(ValueError, match="have the same name once it is written as text"):
        surveyed(f"{tmp_path}/")


def test_listed_names_are_text_whatever_their_bytes(tmp_path: Path) -> None:
    os.close(os.open(os.fsencode(tmp_path) + b"/\xe4.png", os.O_CREAT))
    (found,) = list_images(CohortConfig.model_validate({"source": f"{tmp_path}/"}))
    assert found.name == "\\xe4.png" and found.name.encode()
    assert found == Listed("\\xe4.png", Source((f"{tmp_path}/\udce4.png",)), path="\udce4.png")
