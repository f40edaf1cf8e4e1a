"""Records: what was stored by whom, written last and with its own SHA-256."""

import hashlib
import json
from collections.abc import Iterable
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from tasks.plan.planned import StoredObject
from tasks.storage.location import Location, Unavailable


class Delivered(BaseModel):
    """The objects that a producer, or several together, have stored.

    Attributes
    ----------
    digest
        SHA-256 over what the objects were computed from, and how.
    objects
        Every stored object by its key in the store.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    objects: dict[str, StoredObject]

    @property
    def size(self) -> int:
        """Bytes of the objects."""
        return sum(stored.size for stored in self.objects.values())


class Record(BaseModel):
    """A record under a key, as JSON with its own SHA-256, so that a single different byte is noticed.

    Attributes
    ----------
    folder
        Where records of the kind lie in an output.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: ClassVar[str]

    @property
    def key(self) -> str:
        """The name of the record's file, without its ending."""
        raise NotImplementedError

    def write(self, output: Location) -> None:
        self.location(output, self.key).write(self.encode())

    @classmethod
    def location(cls, output: Location, key: str) -> Location:
        return output / cls.folder / f"{key}.json"

    @classmethod
    def read_keys(cls, output: Location, keys: Iterable[str]) -> dict[str, Self]:
        """Read some records; a damaged one counts as missing."""
        asked = list(keys)
        found = {}
        for key, data in zip(asked, output.read_all([cls.location(output, one).url for one in asked]), strict=True):
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, Exception):
                raise data
            if (record := cls.decode(data)) and record.key == key:
                found[key] = record
        return found

    def encode(self) -> bytes:
        body = self.model_dump(mode="json")
        return json.dumps({"sha256": hashlib.sha256(json.dumps(body).encode()).hexdigest(), **body}).encode()

    @classmethod
    def decode(cls, data: bytes) -> Self | None:
        """Read what was written; None if a single byte of it is different."""
        try:
            content = json.loads(data)
            del content["sha256"]
            record = cls.model_validate(content)
        except (ValueError, KeyError, TypeError):  # pydantic's error is a ValueError, too
            return None
        return record if record.encode() == data else None


class NamedRecord(Record):
    """A record of an artefact or a result, by its name."""

    title: str
    delivered: Delivered

    @property
    def key(self) -> str:
        return self.title


class ShardRecord(Record):
    """A record of one shard."""

    shard: int

    @property
    def key(self) -> str:
        return shard_key(self.shard)

    @property
    def objects(self) -> dict[str, StoredObject]:
        """Every stored object by its key in the store."""
        raise NotImplementedError

    @classmethod
    def read(cls, output: Location, shards: Iterable[int]) -> dict[int, Self]:
        """Read the records of some shards; a damaged one counts as missing."""
        found = cls.read_keys(output, map(shard_key, shards))
        return {record.shard: record for record in found.values()}


def shard_key(shard: int) -> str:
    return f"{shard:06d}"


def problem_with(promised: StoredObject | None, data: bytes | Exception) -> str:
    """Say in which way an object is not as it was promised; empty if it is.

    Raises
    ------
    Unavailable
        If storage does not answer: nothing is called damaged for that.
    """
    if isinstance(data, Unavailable):
        raise data
    if promised is None:
        return "no record speaks of it"
    if isinstance(data, FileNotFoundError):
        return "missing"
    if isinstance(data, Exception):
        return f"unreadable: {type(data).__name__}: {data}"
    if len(data) != promised.size:
        return f"{len(data)} bytes, {promised.size} were written"
    return "" if hashlib.sha256(data).hexdigest() == promised.sha256 else "its bytes changed"
