"""Where the files of a cohort lie and what they are called. A run knows it; nothing of it is ever written down."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cache
from glob import escape
from posixpath import basename, dirname
from typing import Literal, NamedTuple
from unicodedata import normalize

from fsspec.utils import glob_translate

from models.errors import ConfigurationError
from tasks.cohort.reading import NoImage, Unreadable
from tasks.cohort.table import is_table, read_table
from tasks.storage.location import Location, nameless

_WORKBOOKS = (".xlsx", ".xls", ".xlsm", ".ods")
_LONGEST_KEY = 1024
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_WINDOWS = re.compile(r"[A-Za-z]:[\\/]|\\\\")
_BIDS = re.compile(r"(?:^|/)(sub-[0-9A-Za-z]+)(?=[/_.])")


class Source(NamedTuple):
    """The file of an image, or the files of its series; its mask; and its row in the cohort table, counted from 1."""

    uris: tuple[str, ...]
    mask: str | None = None
    row: int | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the image."""
        return self.uris if self.mask is None else (*self.uris, self.mask)


class Listed(NamedTuple):
    """An image as the cohort names it.

    Attributes
    ----------
    path
        Its path below the folder of the cohort or the table.
    refused
        Why its files make no image, if that is known.
    """

    name: str
    source: Source
    label: str | None = None
    subject: str | None = None
    path: str = ""
    refused: str | None = None

    @property
    def called(self) -> tuple[str, ...]:
        """The names that are known of it before a file is read: its own, and its subject's if there is one."""
        subject = self.subject or self.bids
        return (self.name,) if subject is None else (self.name, subject)

    @property
    def bids(self) -> str | None:
        """The subject that BIDS names in the path, such as sub-01; the file's, if its folder is another's."""
        found = _BIDS.findall(self.path)
        return found[-1] if found else None


class Sources:
    """Where images lie, by id. It shows nothing of that when it is printed: Dask logs the arguments of what failed."""

    def __init__(self, places: Mapping[str, Source]) -> None:
        self._places = dict(places)

    def __repr__(self) -> str:
        return f"<sources of {len(self._places)} images>"

    def __call__(self, id: str) -> Source | None:
        return self._places.get(self._listed(id))

    def of(self, ids: Iterable[str]) -> "Sources":
        """Keep the places of some images alone."""
        return Sources({name: self._places[name] for name in map(self._listed, ids) if name in self._places})

    def _listed(self, id: str) -> str:
        """Name the file that a frame, `name#3`, is of."""
        return id if id in self._places else id.rpartition("#")[0]


Find = Callable[[str], Source | None]
"""Tells where an image of some id lies; None if the cohort does not have it."""


def would_list(source: Location, file: Location) -> bool:
    """Tell whether a folder, glob or prefix lists a file, if it is there, with any step of it taken for a name."""
    if is_table(source) or source.endpoint_url != file.endpoint_url:
        return False
    steps = source.path.rstrip("/").split("/")
    patterns = [[*map(escape, steps[:names]), *(steps[names:] or ["**"])] for names in range(len(steps) + 1)]
    return any(re.match(glob_translate("/".join(pattern)), file.path) for pattern in patterns)


def list_images(source: Location, root: Location) -> list[Listed]:
    """List a folder, glob or prefix, or the files that a cohort table names.

    Parameters
    ----------
    root
        Folder or prefix that all files of a cohort table lie below.

    Raises
    ------
    ConfigurationError
        If a cohort table is not usable.
    """
    if is_table(source):
        return _from_table(source, root)
    if source.url.lower().endswith(_WORKBOOKS):
        raise ConfigurationError(f"cohort.source: {source} is a workbook: save its sheet as CSV (UTF-8), and name that")
    try:
        folder, files = source.folder, source.files()
    except FileNotFoundError as error:
        raise ConfigurationError(f"cohort.source: {error}") from None
    except OSError as error:
        server = f" at {source.endpoint_url}" if source.endpoint_url else ""
        raise nameless(error, f"cohort.source: {source}{server} cannot be listed") from None
    if f"{folder}/" in files:
        raise ConfigurationError(f"cohort.source: {source} cannot be listed: give access to it, or name another place")
    listed = []
    for url in _once_each(files) if source.is_local else files:
        path = (source.at(url).path.removeprefix(folder) or basename(url)).strip("/")
        listed.append(Listed(_written(path), Source((url,)), path=path))
    return listed


def _once_each(files: Sequence[str]) -> list[str]:
    """Leave out links to files that are there under their own names, and all but the first of several to another."""
    links = {file for file in files if os.path.islink(file)}
    seen = {os.path.realpath(file) for file in files if file not in links} if links else set()
    kept = []
    for file in files:
        real = os.path.realpath(file) if file in links else ""
        if real not in seen:
            kept.append(file)
            seen |= {real} - {""}
    return kept


def _written(path: str) -> str:
    """Make a text of a name that is not UTF-8, in which the bytes that are not come as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _from_table(source: Location, root: Location) -> list[Listed]:
    """Messages name rows, never what is in them: it may be of a patient."""
    rows = read_table(source)
    folder = dirname(source.url)
    lies_below = _fence(root)
    stored = _as_stored(root, folder, [named for row in rows for named in (row.uri, row.mask) if named], lies_below)
    listed = []
    for row in rows:
        for column, named in (("uri", row.uri), ("mask", row.mask)):
            if named and _WINDOWS.match(named):
                raise ConfigurationError(
                    f"cohort.source: the `{column}` in row {row.number} of {source} begins with a drive or server of "
                    "Windows: name files relative to the table, with / between folders"
                )
            if named and not lies_below(_resolve(stored.get(named, named), folder)):
                raise ConfigurationError(
                    f"cohort.source: the `{column}` in row {row.number} of {source} lies outside {root}, where the "
                    "images of this table must lie: move it there, or set cohort.root to a folder or prefix that holds "
                    "all"
                )
        uri = _resolve(stored.get(row.uri, row.uri), folder)
        mask = None if row.mask is None else _resolve(stored.get(row.mask, row.mask), folder)
        is_folder = uri.endswith("/")
        series = tuple(root.at(uri).below()) if is_folder else ()
        path = row.uri if "\\" in uri else row.uri.replace("\\", "/")
        listed.append(
            Listed(
                name=row.id or path.strip("/"),
                source=Source(series or (uri,), mask, row.number),
                label=row.label,
                subject=row.subject,
                refused="the folder is empty, or not there: check the table" if is_folder and not series else None,
                path=path,
            )
        )
    first: dict[str, int] = {}
    numbers = [(first.setdefault(image.name, row.number), row.number) for image, row in zip(listed, rows, strict=True)]
    if twice := [pair for pair in numbers if pair[0] != pair[1]]:
        raise ConfigurationError(
            f"cohort.source: {source} names {len({one for one, _ in twice})} ids more than once, such as in rows "
            f"{twice[0][0]} and {twice[0][1]}"
        )
    return listed


def _as_stored(root: Location, folder: str, names: Iterable[str], lies_below: Callable[[str], bool]) -> dict[str, str]:
    """Find how names are spelt where the files lie: with / for \\, accents apart from their letters or not.

    Only of names that could be spelt otherwise, and only below the root. If there is no such file, its name has /.
    """
    doubtful = {name: _spellings(name) for name in names if not name.isascii() or "\\" in name}
    urls = {spelling: _resolve(spelling, folder) for spellings in doubtful.values() for spelling in spellings}
    there = _existing(root, set(filter(lies_below, urls.values()))) if urls else set()
    return {
        name: next((spelling for spelling in spellings if urls[spelling] in there), name.replace("\\", "/"))
        for name, spellings in doubtful.items()
    }


def _spellings(name: str) -> list[str]:
    found = [name, name.replace("\\", "/")]
    forms: tuple[Literal["NFC", "NFD"], ...] = ("NFC", "NFD")
    for folder, slash, own in [spelling.rpartition("/") for spelling in found]:
        found += [normalize(form, folder) + slash + normalize(other, own) for form in forms for other in forms]
    return list(dict.fromkeys(found))


def _existing(root: Location, urls: set[str]) -> set[str]:
    if root.is_local:
        return {url for url in urls if os.path.lexists(url)}
    folders = {url for url in urls if url.endswith("/") and root.at(url).exists()}
    return folders | root.stamps_of(url for url in urls if not url.endswith("/")).keys()


def _resolve(named: str, folder: str) -> str:
    """Make the URL of a file that a cohort table names; without dots, which some clients take for steps up."""
    url = named if "://" in named or named.startswith("/") else f"{folder}/{named}"
    if "://" in url:
        return url
    return os.path.abspath(url) + ("/" if url.endswith("/") else "")


def _fence(root: Location) -> Callable[[str], bool]:
    """Tell of URLs whether what they name lies below a root, also if links lead elsewhere."""
    if not root.is_local:
        prefix = root.url.rstrip("/") + "/"
        return lambda url: url.startswith(prefix) and not {"", ".", ".."} & {*url[len(prefix) :].rstrip("/").split("/")}
    real_folder = cache(os.path.realpath)
    top = os.path.join(os.path.realpath(root.path), "")

    def lies_below(url: str) -> bool:
        folder, name = os.path.split(url)
        real = os.path.realpath(url) if os.path.islink(url) else os.path.join(real_folder(folder), name)
        return "://" not in url and real.startswith(top)

    return lies_below


def check_is_file(location: Location, home: Location) -> None:
    """Check a name whose size no listing told: it may be a pipe, which never ends when it is read, or a link.

    Parameters
    ----------
    home
        The folder or prefix that no file is read outside of.

    Raises
    ------
    Unreadable
        If it names something else than a file, a file outside of `home`, or is no name that a file can have.
    OSError
        If there is no such file.
    """
    if not location.is_local:
        if len(location.path.partition("/")[2].encode()) > _LONGEST_KEY:
            raise Unreadable(
                f"its name has more than {_LONGEST_KEY} bytes, which no object of S3 can have: mend the table"
            )
        return
    try:
        mode = os.stat(location.path).st_mode
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise Unreadable("it is a link that leads back to itself: put the file in its place") from None
        if error.errno == errno.ENAMETOOLONG:
            raise Unreadable("its name is longer than any that the file system can hold: mend the table") from None
        if os.path.islink(location.path):
            raise Unreadable("it is a link to a file that is not there: put the file in its place") from None
        raise
    is_link = os.path.islink(location.path)
    if stat.S_ISDIR(mode) and location.url.endswith("/"):
        raise Unreadable("it is a folder that cannot be listed: give access to it, or leave it out")
    if stat.S_ISDIR(mode) and not is_link:
        raise IsADirectoryError
    if not stat.S_ISREG(mode):
        kind = _KINDS.get(stat.S_IFMT(mode), "something else")
        raise NoImage(f"it is {'a link to ' * is_link}{kind} and no file: leave it out, or put the file in its place")
    if is_link and location.path != home.path and not _fence(home.at(home.folder))(location.path):
        raise Unreadable(
            "it is a link that leads out of the cohort's folder: copy the file into it, or name it in a cohort table "
            "whose cohort.root holds both"
        )
