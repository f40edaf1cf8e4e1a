"""An output that is there: whether it is ours, which shards it still lacks, and how it is put out of the way."""

from collections.abc import Mapping

from models.errors import ConfigurationError
from tasks.plan import manifest
from tasks.plan.plan import NAME, Plan, begun
from tasks.storage import lease
from tasks.storage.location import Location
from tasks.store import objects
from tasks.store.commit import FOLDER, STAGED, Commit, disown, settle, stamps
from tasks.work.evaluate import Evaluation, unevaluated
from tasks.work.fit import FitRecord
from tasks.work.results import ResultRecord

_OURS = (
    STAGED,
    "exports",
    "report",
    "viewer",
    ResultRecord.folder,
    Evaluation.folder,
    FOLDER,
    FitRecord.folder,
    objects.NAME,
    NAME,
)


def check_ours(output: Location) -> None:
    """Check that an output holds a run of ours, or nothing.

    Raises
    ------
    ConfigurationError
        If it holds anything else.
    """
    if begun(output):
        return
    itself = output.url.rstrip("/")  # where it cannot be listed, which its first write will say
    if [url for url in output.below() if url.rstrip("/") != itself and not url.startswith(f"{output / lease.NAME}-")]:
        raise ConfigurationError(
            f"output {output} holds files that are of no run: an output holds nothing else; name another folder"
        )


def pending(output: Location, plan: Plan) -> list[int]:
    """Mend what a killed run left half done, and return the shards that are not delivered and evaluated as planned.

    What commits say is held against one listing: objects that are missing or have another size are damaged. Bytes are
    read by `tasks.upkeep.verify` alone.
    """
    output.sweep()
    sizes = output.sizes()
    commits = Commit.read(output, stamps(output))
    commits |= _with_another_try(output, plan, commits)
    shards = range(len(plan.shards))
    if any(path.startswith(f"{STAGED}/") for path in sizes):
        settle(output, output / objects.NAME, shards, commits)
        sizes = output.sizes()
    whole = {shard: commit for shard, commit in commits.items() if _held_against(output, sizes, commit).is_whole(plan)}
    return sorted({*shards} - whole.keys() | {*unevaluated(output, plan, whole, sizes)})


def _with_another_try(output: Location, plan: Plan, commits: Mapping[int, Commit]) -> dict[int, Commit]:
    """Take back the commits of shards with images that were not as planned when they were read, but now are."""
    tried = {shard: commit for shard, commit in commits.items() if commit.again and commit.is_whole(plan)}
    entries = manifest.load(output, sources=False) if tried else ()
    return {
        shard: disown(output, commit, commit.objects)
        for shard, commit in tried.items()
        if any((entry := entries[plan.shards[shard].start + row]).present and not entry.reason for row in commit.again)
    }


def _held_against(output: Location, sizes: dict[str, int], commit: Commit) -> Commit:
    """Take back what a commit says of objects that are not there as it says."""
    damaged = [key for key, stored in commit.objects.items() if sizes.get(f"{objects.NAME}/{key}") != stored.size]
    return disown(output, commit, damaged) if damaged else commit


def erase(output: Location) -> None:
    """Delete a run; what else lies in its folder stays.

    The manifest stays until that of the next run takes its place in one write: the output is known to be ours by it,
    and it holds what must not be lost, which is the key and what was withdrawn.
    """
    for name in _OURS:
        (output / name).remove()
