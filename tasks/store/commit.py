"""The commit: the record, written last, that says what has been delivered of a shard."""

import hashlib
from collections.abc import Collection, Iterable, Mapping

from tasks.plan.plan import Plan
from tasks.plan.shards import digest_rows
from tasks.storage.location import Location
from tasks.store.record import Delivered, ShardRecord, StoredObject

FOLDER = "commits"
STAGED = "staged"


class DeliveredPart(Delivered):
    """The objects of a shard that the explainers of one part of the plan have stored.

    Attributes
    ----------
    flags
        Rows by flag in words, such as "map blank"; without those that no image has.
    """

    flags: dict[str, tuple[int, ...]]


class Commit(ShardRecord):
    """The record of one shard's delivery.

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
    parts: dict[int, DeliveredPart]
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
    def flagged(self) -> set[int]:
        """Rows of the images with a flag of their own or on one of their maps."""
        return {row for part in self.parts.values() for flagged in part.flags.values() for row in flagged}

    def delivers(self, plan: Plan, part: int) -> bool:
        """True if it holds a part of what the plan promises, for whatever rows."""
        return part in self.parts and self.parts[part].digest == plan.part_digests[part]

    def is_whole(self, plan: Plan) -> bool:
        """True if it delivers all that the plan promises of the shard."""
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
