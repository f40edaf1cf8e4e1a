"""An output that is there: whether it is ours, what it still lacks, and how it is put out of the way."""

from tasks import lease, store
from tasks.commit import FOLDER, STAGED, Commit, disown, read_commits, settle, stamps
from tasks.plan import NAME, Plan, begun
from tasks.storage import PARTIAL, Location

_OURS = (STAGED, "report", FOLDER, store.NAME, NAME)


def check_ours(output: Location) -> None:
    """Check that an output holds a run of ours, or nothing.

    Raises
    ------
    ValueError
        If it holds anything else.
    """
    if not begun(output) and [url for url in output.files() if f"/{lease.NAME}-" not in url]:
        raise ValueError(
            f"output {output} holds files that are of no run: an output holds nothing else; name another folder"
        )


def pending(output: Location, plan: Plan) -> list[int]:
    """Mend what a killed run left half done, and return the shards that are not delivered as `plan` promises.

    What commits say is held against one listing: objects that are missing or have another size are damaged. Bytes are
    read by `tasks.verify` alone.
    """
    sizes = output.sizes()
    for path in sizes:
        if path.endswith(PARTIAL):
            (output / path).remove()
    commits = read_commits(output, stamps(output))
    shards = range(len(plan.shards))
    if any(path.startswith(f"{STAGED}/") for path in sizes):
        settle(output, output / store.NAME, shards, commits)
        sizes = output.sizes()
    return [shard for shard in shards if shard not in commits or not _held_against(output, sizes, commits[shard], plan)]


def _held_against(output: Location, sizes: dict[str, int], commit: Commit, plan: Plan) -> bool:
    damaged = [key for key, stored in commit.objects.items() if sizes.get(f"{store.NAME}/{key}") != stored.size]
    return (disown(output, commit, damaged) if damaged else commit).is_whole(plan)


def erase(output: Location) -> None:
    """Delete a run; what else lies in its folder stays.

    The manifest stays until that of the next run takes its place in one write: the output is known to be ours by it,
    and it holds what must not be lost, which is the key and what was withdrawn.
    """
    for name in _OURS:
        (output / name).remove()
