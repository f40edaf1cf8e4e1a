"""The place of bytes: a local folder or an S3 prefix, through one interface."""

import errno
import os
import re
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from typing import Annotated, Any, BinaryIO, TypeVar

import fsspec
from fsspec import AbstractFileSystem
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, field_validator, model_validator

from tasks.storage.credentials import plain_address, without_credentials
from tasks.storage.globs import matching, split, visible
from tasks.storage.ranges import RangedFile

PARTIAL = ".partial"
"""The end of the name of a file that is being written to a local folder; what a killed process leaves."""

T = TypeVar("T")

fsspec.register_implementation("s3", "tasks.storage.s3.PatientS3", clobber=True)

_READS_AT_ONCE = 8
_PART = 2**25
"""Bytes of a part of a file that is uploaded piece by piece; one that is smaller takes one request."""

_UNFILLED = re.compile(r"\$\{?\w+\}?|%\w+%|[A-Za-z]:[\\/]")
"""A variable of a shell or a drive of Windows, which would become the name of a folder here."""
_BUCKET = re.compile(r"[\w.-]+|arn:[^/]+", re.ASCII)


@cache
def _readers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(_READS_AT_ONCE, thread_name_prefix="storage")


class Unavailable(OSError):
    """S3 did not answer, however often it was asked: that says nothing about what is stored."""


class CredentialsRefused(Unavailable):
    """S3 does not take the credentials (any more). No PermissionError: it says nothing about a single file."""


class Location(BaseModel):
    """A file, folder or prefix. Credentials are never part of it: they come from the environment or a profile."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    url: str = Field(description="A local path or an s3:// URL", min_length=1)
    endpoint_url: Annotated[str, AfterValidator(plain_address)] | None = Field(
        None, description="The S3 server, if it is not Amazon's", pattern="^https?://"
    )
    profile: str | None = Field(None, description="The AWS profile that holds the credentials")

    @model_validator(mode="before")
    @classmethod
    def _from_text(cls, value: Any) -> Any:
        return {"url": value} if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _local_or_s3(cls, url: str) -> str:
        without_credentials(url)
        if url.startswith("s3://"):
            return _checked_key(url)
        if "://" in url:
            raise ValueError(f"{url!r} is neither a local path nor an s3:// URL")
        if unfilled := _UNFILLED.match(url):
            raise ValueError(f"{url!r} begins with {unfilled[0]!r}, which is not filled in here: write the path itself")
        trailing = "/" if url.endswith("/") else ""
        return os.path.abspath(os.path.expanduser(url)) + trailing

    def __str__(self) -> str:
        return self.url

    def __truediv__(self, name: str) -> "Location":
        return self.at(f"{self.url.rstrip('/')}/{name}")

    def at(self, url: str) -> "Location":
        """Another place on the same server, by a whole URL or path; what a listing names is taken as it is."""
        return self.model_copy(update={"url": url})

    @property
    def is_local(self) -> bool:
        return not self.url.startswith("s3://")

    @property
    def storage_options(self) -> dict[str, Any]:
        """Options for fsspec, and for anything that takes fsspec's."""
        if self.is_local:
            return {}
        return {"endpoint_url": self.endpoint_url, "profile": self.profile, "use_listings_cache": False}

    @property
    def filesystem(self) -> AbstractFileSystem:
        return fsspec.filesystem("file" if self.is_local else "s3", **self.storage_options)

    @property
    def path(self) -> str:
        """The path as its filesystem names it."""
        return self.url.removeprefix("s3://")

    def exists(self) -> bool:
        found: bool = self.filesystem.exists(self.path)
        return found

    def size(self) -> int:
        size: int = self.filesystem.size(self.path)
        return size

    def read(self) -> bytes:
        data: bytes = self.filesystem.cat_file(self.path)
        return data

    def open(self) -> RangedFile:
        """Open a file that is not to be read whole.

        Raises
        ------
        OSError
            If there is no such file, or it cannot be read.
        """
        return RangedFile(self.filesystem, self.path)

    def stamp(self) -> str:
        """Look up the file's stamp, as `stamps` has it; of a link, that of the file that it leads to."""
        return _stamp(self.filesystem.info(os.path.realpath(self.path) if self.is_local else self.path))

    def read_all(self, urls: Sequence[str]) -> list[bytes | Exception]:
        """Read several files at once, local or on this server; what cannot be read gives its error."""
        return list(_readers().map(lambda url: self.at(url)._try_read(), urls))

    def _try_read(self) -> bytes | Exception:
        try:
            return self.read()
        except Exception as error:  # handed to the caller, file by file
            return error

    def write(self, data: bytes) -> None:
        """Write the whole file or nothing."""
        if not self.is_local:
            self.filesystem.pipe_file(self.path, data)
            return
        os.replace(self._write_beside(data), self.path)

    @contextmanager
    def writing(self) -> Iterator[BinaryIO]:
        """Open the file to be written piece by piece: it is there when the block ends well, or stays as it was."""
        if not self.is_local:
            file = self.filesystem.open(self.path, "wb", block_size=_PART)
            try:
                yield file
                file.close()
            except BaseException:
                file.closed = True  # or its end would be the end of the upload
                with suppress(OSError):
                    file.discard()
                raise
            return
        with self._beside() as (partial, file):
            yield file
        os.replace(partial, self.path)

    def create(self, data: bytes) -> bool:
        """Write the whole file if there is none yet, and tell whether there was none: of several, one succeeds.

        Nobody else writes the same `data`: on S3, a request that was answered by nobody may have done its work.
        """
        try:
            if not self.is_local:
                self.filesystem.pipe_file(self.path, data, mode="create")
                return True
            partial = self._write_beside(data)
            try:
                os.link(partial, self.path)
            finally:
                os.unlink(partial)
        except FileExistsError:
            return not self.is_local and self.read() == data
        return True

    def _write_beside(self, data: bytes) -> str:
        with self._beside() as (partial, file):
            file.write(data)
        return partial

    @contextmanager
    def _beside(self) -> Iterator[tuple[str, BinaryIO]]:
        """Write to a new name in the same folder; two who write the same file do not share it."""
        os.makedirs(os.path.dirname(self.path), exist_ok=True)
        partial = f"{self.path}.{uuid.uuid4().hex}{PARTIAL}"
        try:
            with open(partial, "wb") as file:
                yield partial, file
                file.flush()
                os.fsync(file.fileno())
        except BaseException:
            with suppress(OSError):  # a full disk is not to be kept full
                os.unlink(partial)
            raise

    def remove(self) -> None:
        """Remove the file or the whole folder, if it is there."""
        with suppress(FileNotFoundError):
            self.filesystem.rm(self.path, recursive=True)

    def sweep(self) -> None:
        """Remove what killed processes left half-written below this folder; on S3, a rule of the bucket does."""
        for path in self.sizes() if self.is_local else ():
            if path.endswith(PARTIAL):
                (self / path).remove()

    def sizes(self) -> dict[str, int]:
        """The size of every file below this folder, by its path in it; one listing."""
        return {path: facts["size"] for path, facts in self._below().items()}

    def stamps(self) -> dict[str, str]:
        """By path below this folder, a stamp that changes whenever the file is written; one listing."""
        return {path: _stamp(facts) for path, facts in self._below().items()}

    def stamps_of(self, urls: Iterable[str]) -> dict[str, str]:
        """By URL, the stamps of some files, local or on this server; a file that is not there is left out."""
        return self._known_of(urls, _stamp)

    def times_of(self, urls: Iterable[str]) -> dict[str, datetime]:
        """Look up when some files, local or on this server, were written last; missing ones are left out."""
        return self._known_of(urls, _time)

    def _known_of(self, urls: Iterable[str], tell: Callable[[dict[str, Any]], T]) -> dict[str, T]:
        """Tell something of each file by the facts in the listing of its folder, which are too many to be kept."""
        wanted = set(urls)

        def told(folder: str) -> dict[str, T]:
            files = self.at(folder)._directly()
            return {url: tell(facts) for name, facts in files.items() if (url := f"{folder}/{name}") in wanted}

        found: dict[str, T] = {}
        for known in _readers().map(told, sorted({url.rpartition("/")[0] for url in wanted})):
            found |= known
        return found

    def names(self) -> list[str]:
        """Names of the files that lie in this folder itself; one listing."""
        return sorted(self._directly())

    def _directly(self) -> dict[str, dict[str, Any]]:
        try:
            found = self.filesystem.ls(self.path, detail=True)
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return {}
        except OSError as error:
            if error.errno in (errno.ELOOP, errno.ENAMETOOLONG):  # there cannot be such a folder
                return {}
            raise
        return {facts["name"].rpartition("/")[2]: facts for facts in found if facts["type"] == "file"}

    def _below(self) -> dict[str, dict[str, Any]]:
        try:
            found = self.filesystem.find(self.path, detail=True)
        except FileNotFoundError:
            return {}
        folder = f"{self.path.rstrip('/')}/"
        return {path.removeprefix(folder): facts for path, facts in found.items() if facts["type"] == "file"}

    @property
    def folder(self) -> str:
        """The path of this folder; of a glob, that of the folder which its first wildcard is looked for in."""
        return split(self.filesystem, self.path)[0]

    def files(self) -> list[str]:
        """The URLs of all files below this folder or prefix, or that match this glob, sorted; hidden ones left out.

        A step with wildcards is a pattern only if there is nothing of just that name. Links, pipes and whatever else is
        no folder are among the files, and so is a local folder that cannot be listed; its name ends with /.
        """
        return self._urls(matching(self.filesystem, self.path))

    def below(self) -> list[str]:
        """The URLs of all files below this folder or prefix, whatever its name holds, sorted, as `files` has them."""
        return self._urls(visible(self.filesystem, self.path.rstrip("/")))

    def _urls(self, paths: Iterable[str]) -> list[str]:
        return list(paths) if self.is_local else [f"s3://{path}" for path in paths]


def _checked_key(url: str) -> str:
    """Check that an S3 URL names a bucket, and a key that every client and server takes for the same."""
    bucket, _, key = url.removeprefix("s3://").partition("/")
    if not _BUCKET.fullmatch(bucket):
        raise ValueError(f"{url!r} names no bucket: give s3://bucket/prefix")
    steps = set(key.rstrip("/").split("/")) if key else set()
    if steps & {"", ".", ".."} or "::" in key:
        raise ValueError(f"{url!r} holds `//`, `/./`, `/../` or `::`, which clients and servers read differently")
    return url


def nameless(error: BaseException, what: str) -> OSError:
    """Make an error of the same kind whose message holds no path: one below the cohort's root may name a patient."""
    if isinstance(error, CredentialsRefused):
        return error
    number = getattr(error, "errno", None)
    kind = Unavailable if isinstance(error, Unavailable) else OSError
    return kind(f"{what} ({type(error).__name__}{f' {number}' if number else ''}): see to its storage")


def _time(facts: dict[str, Any]) -> datetime:
    modified = facts.get("LastModified") or facts["mtime"]
    return modified if isinstance(modified, datetime) else datetime.fromtimestamp(modified, UTC)


def _stamp(facts: dict[str, Any]) -> str:
    """Size, and time or ETag."""
    return f"{facts['size']}-{facts.get('ETag') or facts['mtime']}"
