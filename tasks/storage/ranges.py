"""Files that are too large to be read whole: they are read by ranges, and keep what their storage said against it."""

import io
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256

from fsspec import AbstractFileSystem

_AHEAD = 2**18
_STRETCH = 2**23


class Ranges(io.RawIOBase):
    """A file of a filesystem as a stream of bytes; each read is one request.

    Attributes
    ----------
    failure
        What the storage raised, whatever a library made of that.
    name
        Libraries ask for one; the path, which may name a patient, is kept from them.
    """

    name = "a file"

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        self._filesystem, self._path = filesystem, path
        self.size = int(filesystem.size(path))
        self.failure: OSError | None = None
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._at = max(0, offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence])
        return self._at

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        stop = min(self._at + len(buffer), self.size)
        if stop <= self._at:
            return 0
        try:
            data: bytes = self._filesystem.cat_file(self._path, start=self._at, end=stop)
        except OSError as error:
            self.failure = error
            raise
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


class RangedFile(io.BufferedReader):
    """A file that is read by ranges, with what follows a short read kept for the next."""

    raw: Ranges

    def __init__(self, filesystem: AbstractFileSystem, path: str) -> None:
        super().__init__(Ranges(filesystem, path), _AHEAD)
        self._ranges = self.raw

    @contextmanager
    def telling(self) -> Iterator[None]:
        """Raise what the storage said where a library takes that for damage of the file, or for nothing at all.

        Raises
        ------
        OSError
            If a range could not be read meanwhile.
        """
        try:
            yield
        finally:
            if failure := self._ranges.failure:
                self._ranges.failure = None
                raise failure

    def digest(self) -> str:
        """Compute the SHA-256 of the whole file, a stretch at a time."""
        digest = sha256()
        self.seek(0)
        while stretch := self.read(_STRETCH):
            digest.update(stretch)
        return digest.hexdigest()
