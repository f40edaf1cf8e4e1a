"""Verify: everything stored, held against the plan and the commits."""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from tasks import manifest
from tasks.commit import Commit, delivered
from tasks.plan import Plan
from tasks.storage import Location
from tasks.store import NAME, open_store


@dataclass(frozen=True)
class Damage:
    """One thing that is not as promised."""

    what: str
    where: str
    problem: str


def verify(output: Location, progress: Callable[[int, int], None] = lambda done, of: None) -> list[Damage]:
    """Read every stored object and coordinate and compare; an empty list means that all is as promised.

    Parameters
    ----------
    progress
        Called with the number of shards checked and of all shards.

    Raises
    ------
    FileNotFoundError
        If there is no plan at `output`.
    """
    plan = Plan.read(output)
    commits = delivered(output, plan)
    found: list[Damage] = []
    for shard in plan.shards:
        if shard.index in commits:
            found.extend(_damaged(output, commits[shard.index]))
        else:
            found.append(Damage("shard", str(shard.index), "no valid commit"))
        progress(shard.index + 1, len(plan.shards))
    if not found:
        found.extend(_misaligned(output, plan, commits))
    return found


def _damaged(output: Location, commit: Commit) -> Iterator[Damage]:
    keys = list(commit.objects)
    for key, data in zip(keys, output.read_all([(output / NAME / key).url for key in keys]), strict=True):
        promised = commit.objects[key]
        if isinstance(data, FileNotFoundError):
            yield Damage("object", key, "missing")
        elif isinstance(data, Exception):
            yield Damage("object", key, f"unreadable: {type(data).__name__}: {data}")
        elif len(data) != promised.size:
            yield Damage("object", key, f"{len(data)} bytes, {promised.size} were written")
        elif hashlib.sha256(data).hexdigest() != promised.sha256:
            yield Damage("object", key, "its bytes changed")


def _misaligned(output: Location, plan: Plan, commits: dict[int, Commit]) -> Iterator[Damage]:
    dataset = open_store(output)
    entries = manifest.read(output)
    if list(dataset["image_id"].values) != [entry.id for entry in entries]:
        yield Damage("coordinate", "image_id", "differs from the manifest")
    status = np.concatenate([commits[shard.index].status for shard in plan.shards])
    if not np.array_equal(dataset["status"].values, status):
        yield Damage("variable", "status", "differs from the commits: the run was not finished; run again")
