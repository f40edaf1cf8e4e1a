"""The folders of exported cases: one a case, which is there whole or not at all."""

import errno
import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.parse import quote

from pydantic import BaseModel, ConfigDict, ValidationError

from tasks.storage.lease import Lease, lease
from tasks.storage.location import PARTIAL, Location
from tasks.store.record import StoredObject

FOLDER = "exports"
"""Where exports lie in an output, unless another place is named."""

RECORD = "export.json"

_LONGEST = 200
"""Characters of a folder's name; of a file system's 255, a name that is being written needs some more."""


class Record(BaseModel):
    """The record of a folder, which is the last of its files to be written.

    Attributes
    ----------
    digest
        SHA-256 over all that the case was made of.
    files
        The other files of the folder, by name.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    files: dict[str, StoredObject]


def is_within(place: Location, output: Location) -> bool:
    """Tell whether a folder is an output, or lies in it; links are followed."""
    return f"{_real(place)}/".startswith(f"{_real(output)}/")


def home(output: Location, to: Location | None) -> Location:
    """Name the folder whose lease an export has: the one that is written to, or the output that it lies in."""
    return output if to is None or is_within(to, output) else to


@contextmanager
def held(output: Location, to: Location | None, who: str) -> Iterator[Lease]:
    """Keep runs away from an output, and exports of other outputs from the folder that cases go to.

    Give the lease of `home`. An output that cannot be written to has none, and may be exported to elsewhere all the
    same.

    Raises
    ------
    Occupied
        If a run or another export has one of the two.
    """
    with ExitStack() as leases:
        written_to = home(output, to)
        if written_to != output:
            try:
                leases.enter_context(lease(output, who))
            except OSError as error:
                if not (isinstance(error, PermissionError) or error.errno == errno.EROFS):
                    raise
        yield leases.enter_context(lease(written_to, who))


def place_of(to: Location, format: str, id: str) -> Location:
    """Find the folder of a case; an id that a cohort names may hold anything, and be of any length."""
    name = quote(id, safe=" ")
    if len(name) > _LONGEST:
        name = f"{re.sub('%.?$', '', name[:_LONGEST])}-{hashlib.sha256(id.encode()).hexdigest()[:16]}"
    return to / format / (name if name.strip(".") else name.replace(".", "%2E"))


def is_whole(place: Location, digest: str) -> bool:
    """Tell whether a folder holds a case that was made of the same, with all its files."""
    try:
        record = Record.model_validate_json((place / RECORD).read())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return False
    if record.digest != digest:
        return False
    sizes = place.sizes()
    return all(sizes.get(name) == stored.size for name, stored in record.files.items())


def files_of(place: Location) -> list[str]:
    """Name the files of a case that is there whole."""
    return sorted(Record.model_validate_json((place / RECORD).read()).files)


@contextmanager
def written(place: Location, digest: str) -> Iterator[Path]:
    """Give an empty folder of this machine to the body, and put what it writes in the place of a case.

    On a file system the folder takes the place of an earlier one at once. S3 knows no folders: the record is deleted
    first and written last, and a folder without a record is none.
    """
    beside = os.path.dirname(place.path) if place.is_local else None
    if beside:
        os.makedirs(beside, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=beside, prefix=".", suffix=PARTIAL) as made:
        folder = Path(made) / "case"
        folder.mkdir()
        yield folder
        names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
        files = {name: _stored(folder / name) for name in names}
        (folder / RECORD).write_text(Record(digest=digest, files=files).model_dump_json(indent=1))
        if place.is_local:
            if os.path.lexists(place.path):
                os.rename(place.path, Path(made) / "before")
            os.rename(folder, place.path)
            return
        (place / RECORD).remove()
        for name in place.sizes().keys() - files.keys():
            (place / name).remove()
        for name in (*names, RECORD):
            (place / name).write((folder / name).read_bytes())


def sweep(to: Location, formats: tuple[str, ...]) -> None:
    """Remove what exports that were killed left half-written; on S3 there is no such thing."""
    for format in formats if to.is_local else ():
        for name in os.listdir((to / format).path) if os.path.isdir((to / format).path) else ():
            if name.startswith(".") and name.endswith(PARTIAL):
                (to / format / name).remove()


def _real(place: Location) -> str:
    return os.path.realpath(place.path) if place.is_local else place.url.rstrip("/")


def _stored(path: Path) -> StoredObject:
    with path.open("rb") as file:
        return StoredObject(sha256=hashlib.file_digest(file, "sha256").hexdigest(), size=path.stat().st_size)
