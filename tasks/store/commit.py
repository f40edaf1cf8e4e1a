"""The commit: the record, written last, that says what has been delivered of a shard."""

import hashlib
import json
from collections.abc import Collection, Iterable, Mapping
from typing import ClassVar, Self

from pydantic import BaseModel, ConfigDict

from tasks.plan.plan import Plan
from tasks.plan.shards import digest_rows
from tasks.storage.location import Location

FOLDER = "commits"
STAGED = "staged"


class StoredObject(BaseModel):
    """One stored object: its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int


class Part(BaseModel):
    """What some explainers that are asked together delivered; the first part holds everything beside maps, too.

    Attributes
    ----------
    digest
        The part's digest in the plan that was carried out.
    objects
        Every stored object by its key in the store.
    flags
        Rows by flag in words, such as "map blank"; without those that no image has.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    digest: str
    objects: dict[str, StoredObject]
    flags: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        """Bytes of its objects."""
        return sum(stored.size for stored in self.objects.values())


class Record(BaseModel):
    """What is recorded of one shard, as JSON with its own SHA-256, so that a single different byte is noticed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    folder: ClassVar[str]

    shard: int

    def write(self, output: Location) -> None:
        self.location(output, self.shard).write(self.encode())

    @classmethod
    def location(cls, output: Location, shard: int) -> Location:
        return output / cls.folder / f"{shard:06d}.json"

    @classmethod
    def read(cls, output: Location, shards: Iterable[int]) -> dict[int, Self]:
        """Read the records of some shards; a damaged one counts as missing."""
        asked = list(shards)
        found = {}
        for shard, data in zip(asked, output.read_all([cls.location(output, one).url for one in asked]), strict=True):
            if isinstance(data, FileNotFoundError):
                continue
            if isinstance(data, Exception):
                raise data
            if (record := cls.decode(data)) and record.shard == shard:
                found[shard] = record
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


class Commit(Record):
    """What has been delivered of one shard.

    Attributes
    ----------
    rows
        Digest of each row, as the plan that was carried out promised it.
    status
        One of the store's status codes an image, in the shard's order.
    reasons
        Image id to why it is quarantined or failed.
    again
        Rows whose source was not what the plan had seen: the next run plans them anew.
    seconds
        Time spent by stage; stages overlap.
    """

    folder = FOLDER

    rows: tuple[str, ...]
    status: tuple[int, ...]
    reasons: dict[str, str]
    again: tuple[int, ...]
    parts: dict[int, Part]
    seconds: dict[str, float]

    @property
    def objects(self) -> dict[str, StoredObject]:
        return {key: stored for part in self.parts.values() for key, stored in part.objects.items()}

    @property
    def flags(self) -> dict[str, int]:
        """Number of images by flag in words."""
        rows: dict[str, set[int]] = {}
        for part in self.parts.values():
            for flag, flagged in part.flags.items():
                rows.setdefault(flag, set()).update(flagged)
        return {flag: len(flagged) for flag, flagged in rows.items()}

    @property
    def flagged(self) -> int:
        """Images with a flag of their own or on one of their maps."""
        return len({row for part in self.parts.values() for flagged in part.flags.values() for row in flagged})

    def delivers(self, plan: Plan, part: int) -> bool:
        """Whether it holds a part of what the plan promises, for whatever rows."""
        return part in self.parts and self.parts[part].digest == plan.part_digests[part]

    def is_whole(self, plan: Plan) -> bool:
        """Whether it delivers all that the plan promises of the shard."""
        return (
            self.shard < len(plan.shards)
            and digest_rows(self.rows) == plan.shards[self.shard].digest
            and all(self.delivers(plan, part) for part in range(len(plan.parts)))
        )


def delivered(output: Location, plan: Plan) -> dict[int, Commit]:
    """Read the commits of `plan` that are whole, by shard."""
    commits = Commit.read(output, stamps(output))
    return {shard: commit for shard, commit in commits.items() if commit.is_whole(plan)}


def stamps(output: Location, folder: str = FOLDER) -> dict[int, str]:
    """By shard, what changes when its record is written; one request, so that it can be asked often."""
    found = (output / folder).stamps()
    return {int(name[:-5]): stamp for name, stamp in found.items() if name.endswith(".json") and name[:-5].isdecimal()}


def disown(output: Location, commit: Commit, damaged: Iterable[str]) -> Commit:
    """Take back what a commit says of the parts that hold `damaged` objects: they will be delivered again."""
    lost = set(damaged)
    kept = {number: part for number, part in commit.parts.items() if not lost & part.objects.keys()}
    left = commit.model_copy(update={"parts": kept})
    left.write(output)
    return left


def settle(output: Location, store: Location, shards: Collection[int], commits: Mapping[int, Commit]) -> None:
    """Put in place what was staged for some shards, or throw it away if their commits do not speak of it.

    An object that a commit speaks of is never written over before its successor lies safe beside it: first the
    successors are staged, then the commit speaks of them, then they are put in place.
    """
    folder = output / STAGED
    for key in sorted(folder.sizes()):
        shard = shard_of(key)
        if shard not in shards:
            continue
        data = (folder / key).read()
        promised = commits[shard].objects.get(key) if shard in commits else None
        if promised and promised.sha256 == hashlib.sha256(data).hexdigest():
            (store / key).write(data)
        (folder / key).remove()


def shard_of(key: str) -> int:
    """The shard that a delivered object belongs to."""
    return int(key.split("/")[2])
