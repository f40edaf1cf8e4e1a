"""The end of a run: commits held against the plan, the per-image index, consolidated metadata."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from tasks import manifest
from tasks.commit import Commit, delivered
from tasks.manifest import Entry
from tasks.plan import Plan
from tasks.storage import Location
from tasks.store import STATUS, write_index


class Incomplete(Exception):
    """Shards of the plan that no commit delivers."""


@dataclass(frozen=True)
class Summary:
    """What became of the cohort.

    Attributes
    ----------
    flagged
        Explained images with a flag of their own or on one of their maps.
    flags
        Such images by flag in words.
    seconds
        By stage, summed over workers; stages overlap.
    """

    images: int
    explained: int
    quarantined: int
    failed: int
    pending: int
    flagged: int
    shards: int
    shards_done: int
    objects: int
    bytes_stored: int
    flags: dict[str, int]
    seconds: dict[str, float]

    @property
    def not_explained(self) -> float:
        """Share of the images that are quarantined or failed."""
        return (self.quarantined + self.failed) / self.images


def summarise(output: Location) -> Summary:
    """Read how far an output is; it may be of a run that is still going on.

    Raises
    ------
    FileNotFoundError
        If there is no plan at `output`.
    """
    plan = Plan.read(output)
    return _summary(plan, delivered(output, plan))


def finish(output: Location) -> Summary:
    """Write the index and the quarantine reasons, and consolidate the store.

    Raises
    ------
    Incomplete
        If a shard of the plan has not been delivered.
    """
    plan = Plan.read(output)
    commits = delivered(output, plan)
    missing = [shard.index for shard in plan.shards if shard.index not in commits]
    if missing:
        raise Incomplete(f"{len(missing)} of {len(plan.shards)} shards are missing, such as {missing[:5]}: run again")
    ordered = [commits[shard.index] for shard in plan.shards]
    status = np.concatenate([np.array(commit.status, np.int8) for commit in ordered])
    shard = np.repeat(np.arange(len(ordered), dtype=np.int32), [len(commit.status) for commit in ordered])
    write_index(output, status, shard)
    manifest.write(output, _with_reasons(manifest.read(output), ordered), plan.images_per_shard)
    return _summary(plan, commits)


def _with_reasons(entries: Sequence[Entry], commits: Sequence[Commit]) -> list[Entry]:
    reasons = {id: reason for commit in commits for id, reason in commit.reasons.items()}
    return [replace(entry, reason=reasons.get(entry.id)) for entry in entries]


def _summary(plan: Plan, commits: dict[int, Commit]) -> Summary:
    status = Counter(STATUS[code] for commit in commits.values() for code in commit.status)
    flags: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for commit in commits.values():
        flags.update(commit.flags)
        seconds.update(commit.seconds)
    objects = [stored for commit in commits.values() for stored in commit.objects.values()]
    return Summary(
        images=plan.images,
        explained=status["explained"],
        quarantined=status["quarantined"],
        failed=status["failed"],
        pending=plan.images - status.total() + status["pending"],
        flagged=sum(commit.flagged for commit in commits.values()),
        shards=len(plan.shards),
        shards_done=len(commits),
        objects=len(objects),
        bytes_stored=sum(stored.size for stored in objects),
        flags=dict(flags),
        seconds=dict(seconds),
    )
