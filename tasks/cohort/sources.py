"""The places and names of the files of a cohort. A run knows it; nothing of it is ever written down."""

import errno
import os
import re
import stat
from collections.abc import Callable, Iterable, Mapping
from functools import cache
from typing import NamedTuple

from tasks.cohort.reading import NoImage, Unreadable
from tasks.storage.location import Location

_LONGEST_KEY = 1024
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}
_BIDS = re.compile(r"(?:^|/)(sub-[0-9A-Za-z]+)(?=[/_.])")


class Files(NamedTuple):
    """The file of a sequence, or the files of its series; without a name where an image has one."""

    name: str
    uris: tuple[str, ...]

    def says(self, reason: object) -> str:
        """Say of which sequence a reason is."""
        return f"its {self.name}: {reason}" if self.name else str(reason)


class Source(NamedTuple):
    """The place of an image.

    Attributes
    ----------
    uris
        Its file, or the files of its series; or those of all its sequences.
    mask
        The file of its mask.
    row
        Its row in the cohort table, counted from 1.
    sequences
        The files of each sequence, if the image is made of several.
    record
        The numbers that the network takes beside the image; empty where it takes none.
    """

    uris: tuple[str, ...]
    mask: str | None = None
    row: int | None = None
    sequences: tuple[Files, ...] = ()
    record: tuple[float, ...] = ()

    @classmethod
    def of(cls, sequences: Iterable[Files], mask: str | None = None, row: int | None = None) -> "Source":
        """Make the source of an image of several sequences, in the order of the network's channels."""
        found = tuple(sequences)
        return cls(tuple(uri for files in found for uri in files.uris), mask, row, found)

    @property
    def parts(self) -> tuple[Files, ...]:
        """The files of each sequence, or those of the image."""
        return self.sequences or (Files("", self.uris),)

    @property
    def files(self) -> tuple[str, ...]:
        """All files that are read for the image."""
        return self.uris if self.mask is None else (*self.uris, self.mask)


class Listed(NamedTuple):
    """An image as the cohort names it.

    Attributes
    ----------
    covariates
        The words in its cells of the covariates; empty where a cell is.
    path
        Its path below the folder of the cohort or the table.
    refused
        Why its files make no image, if that is known.
    measures
        Its value of each measure, in the order of `cohort.measures`; None: it has none.
    """

    name: str
    source: Source
    label: str | None = None
    subject: str | None = None
    path: str = ""
    refused: str | None = None
    measures: tuple[float | None, ...] = ()
    covariates: tuple[str, ...] = ()

    @property
    def called(self) -> tuple[str, ...]:
        """The names that are known of it before a file is read: its own, and its subject's if there is one."""
        subject = self.subject or self.bids
        return (self.name,) if subject is None else (self.name, subject)

    @property
    def bids(self) -> str | None:
        """The subject that BIDS names in the path."""
        return bids_subject(self.path)


def bids_subject(path: str) -> str | None:
    """Find the subject that BIDS names in a path, such as sub-01; the file's, if its folder is another's."""
    found = _BIDS.findall(path)
    return found[-1] if found else None


class Sources:
    """The places of images, by id. None is shown when it is printed: Dask logs the arguments of what failed."""

    def __init__(self, places: Mapping[str, Source]) -> None:
        self._places = places

    def __repr__(self) -> str:
        return f"<sources of {len(self._places)} images>"

    def __call__(self, id: str) -> Source | None:
        listed = self._listed(id)
        return listed and listed[1]

    def of(self, ids: Iterable[str]) -> "Sources":
        """Keep the places of some images alone."""
        return Sources(dict(filter(None, map(self._listed, ids))))

    def _listed(self, id: str) -> tuple[str, Source] | None:
        """Find an image, or the file that a frame, `name#3`, is of, with its name."""
        for name in (id, id.rpartition("#")[0]):
            if source := self._places.get(name):
                return name, source
        return None


Find = Callable[[str], Source | None]
"""Tells where an image of some id lies; None if the cohort does not have it."""


def fence(root: Location) -> Callable[[str], bool]:
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
    if is_link and location.path != home.path and not fence(home.at(home.folder))(location.path):
        raise Unreadable(
            "it is a link that leads out of the cohort's folder: copy the file into it, or name it in a cohort table "
            "whose cohort.root holds both"
        )
