"""Files of an output as a browser asks for them: whole, by a range of bytes, or if they have changed."""

import errno
import hashlib
import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from starlette.requests import Request
from starlette.responses import Response, StreamingResponse

from tasks.storage.location import Location
from tasks.storage.media_types import media_type
from tasks.store.objects import NAME

OPEN_TO_READERS = frozenset(
    {NAME, "viewer", "report", "commits", "evaluations", "fits", "results", "exports", "plan.json"}
)
"""The parts of an output that are served. Not the manifest, which may hold the key of the pseudonyms; nor ratings, of
which a rater is told only their own."""

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)
_STRETCH = 2**22
"""Bytes that are in memory at once of an answer."""


@dataclass(frozen=True)
class Found:
    """A file that is there.

    Attributes
    ----------
    etag
        Changes whenever the file is written.
    """

    location: Location
    size: int
    etag: str

    def read(self, start: int, stop: int) -> Iterator[bytes]:
        """Read one stretch after the other, all of the file as it was found.

        Raises
        ------
        OSError
            If the file cannot be read, or was written anew meanwhile: stretches of two files are none.
        """
        filesystem, path = self.location.filesystem, self.location.path
        for begin in range(start, stop, _STRETCH):
            end = min(begin + _STRETCH, stop)
            data = filesystem.cat_file(path, start=begin, end=end)
            is_one_of_several = stop - start > _STRETCH
            if len(data) < end - begin or (is_one_of_several and _etag(filesystem.info(path)) != self.etag):
                raise OSError(errno.ESTALE, "the file was written anew while it was read")
            yield data


def find(output: Location, path: str) -> Found | None:
    """Find a file that is open to readers by its path below an output; links are not followed, nor is ``..``."""
    steps = path.split("/")
    if steps[0] not in OPEN_TO_READERS or {"", ".", ".."} & {*steps}:
        return None
    return _found(output, path)


def find_of_page(folder: Path, path: str) -> Found | None:
    """Find a file of the page of this package."""
    return None if {"", ".", ".."} & {*path.split("/")} else _found(Location(url=str(folder)), path)


def _found(folder: Location, path: str) -> Found | None:
    location = folder / path
    try:
        if folder.is_local:
            place = os.path.join(os.path.realpath(folder.path), path)
            if os.path.realpath(place) != place:
                return None
            location = folder.at(place)
        facts = location.filesystem.info(location.path)
    except (FileNotFoundError, NotADirectoryError, ValueError):  # a name with a null byte is a ValueError
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:  # there cannot be such a file
            return None
        raise
    return Found(location, facts["size"], _etag(facts)) if facts["type"] == "file" else None


def _etag(facts: Mapping[str, Any]) -> str:
    stamp = f"{facts['size']}-{facts.get('ETag') or facts['mtime']}"
    return f'"{hashlib.sha256(stamp.encode()).hexdigest()[:32]}"'


def answer(request: Request, found: Found) -> Response:
    """Answer a GET or HEAD: 200, 206 with one range, 304, or 416 where a range begins beyond the end.

    A header that asks for several ranges, or for none that can be read, is as if it were not there (RFC 9110, 14.2).
    """
    headers = {"etag": found.etag, "accept-ranges": "bytes", "content-type": media_type(found.location.url)}
    if found.etag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    part, status = range(found.size), 200
    if request.headers.get("if-range", found.etag) == found.etag and (asked := _range(request, found.size)) is not None:
        part, status = asked, 206
        if not part:
            headers |= {"content-range": f"bytes */{found.size}", "content-type": "text/plain; charset=utf-8"}
            return Response(f"the range begins beyond the end, at {found.size}", 416, headers)
        headers["content-range"] = f"bytes {part.start}-{part.stop - 1}/{found.size}"
    headers["content-length"] = str(len(part))
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers)
    stretches = found.read(part.start, part.stop)
    if len(part) <= _STRETCH:  # read before the answer begins, so that what fails can be told
        return Response(b"".join(stretches), status, headers)
    return StreamingResponse(stretches, status, headers)


def _range(request: Request, size: int) -> range | None:
    """Read the one range that a request asks for, empty if it begins beyond the end; None if it asks for none."""
    parsed = _RANGE.fullmatch(request.headers.get("range", "").strip())
    if parsed is None or parsed[0] == "bytes=-":
        return None
    first, last = parsed.groups()
    if not first:
        return range(max(size - int(last), 0), size)
    if last and int(last) < int(first):
        return None
    return range(int(first), min(int(last) + 1, size) if last else size)
