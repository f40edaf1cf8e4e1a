"""Withdraw a subject: every trace of it goes, and it does not come back."""

from dataclasses import dataclass

from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.shards import digest_rows
from tasks.prepare.replan import tombstone
from tasks.report import remove_report, write_report
from tasks.storage.location import Location
from tasks.store import store
from tasks.store.commit import Commit, delivered, stamps
from tasks.work.evaluate import judge_shards
from tasks.work.explain import explain_shards
from tasks.work.finish import finish
from tasks.work.pending import pending


@dataclass(frozen=True)
class Erased:
    """What was erased.

    Attributes
    ----------
    images
        Rows of the store that hold nothing any more.
    objects
        Stored objects that were written anew without them, or deleted.
    background
        How many of the images were among those that maps of others were compared with; such maps stay as they are.
    whole
        Whether the output is finished; if not, its report was deleted, and the next run writes another.
    """

    images: tuple[int, ...]
    objects: int
    background: int
    whole: bool


def withdraw(output: Location, subject: str) -> Erased:
    """Erase all images of a subject, or the one image of that id, as the cohort or the output names it.

    Their rows stay, empty.

    The manifest goes first, so that a run that is killed half-way leaves an output that knows what is to be erased:
    withdraw again, or run, to go on.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`.
    ValueError
        If it holds no such subject, or the key is needed to tell.
    """
    plan, entries = Plan.read(output), manifest.read(output)
    names = {entry.id for entry in entries} | {entry.subject for entry in entries}
    known = subject in names or tombstone(subject) in plan.withdrawn
    name = subject if known else plan.cohort.alias(plan.key)(subject)
    pending(output, plan)
    rows = [row for row, entry in enumerate(entries) if not entry.withdrawn and name in (entry.id, entry.subject)]
    stone = tombstone(name)
    if not rows and stone not in plan.withdrawn:
        raise ValueError(f"output {output} holds no image or subject of the name that was given: nothing was erased")
    background = {entries[row].id for row in rows} & set(plan.background)
    if rows:
        plan = _without(plan, entries, rows, stone)
        plan.write(output, entries)
    empty = [row for row, entry in enumerate(entries) if entry.withdrawn]
    shards = sorted({row // plan.images_per_shard for row in empty})
    objects = _erase(output, plan, shards)
    store.set_up(output, plan, entries)
    judge_shards(output, shards)
    whole = len(delivered(output, plan)) == len(plan.shards)
    if whole:
        finish(output)
        write_report(output)
    else:
        remove_report(output)
    return Erased(tuple(rows or empty), objects, len(background), whole)


def _without(plan: Plan, entries: list[Entry], rows: list[int], stone: str) -> Plan:
    """Empty some rows of the manifest in place, and make the plan that promises so."""
    gone = {entries[row].id for row in rows}
    for row in rows:
        entries[row] = Entry(id=f"withdrawn-{row}", present=False, withdrawn=True)
    shards = tuple(
        shard.model_copy(update={"digest": digest_rows(shard.rows(entries[shard.start : shard.stop]))})
        for shard in plan.shards
    )
    return plan.model_copy(
        update={
            "shards": shards,
            "withdrawn": tuple(sorted({*plan.withdrawn, stone})),
            "background": tuple(id for id in plan.background if id not in gone),
        }
    )


def _erase(output: Location, plan: Plan, shards: list[int]) -> int:
    """Write the shards anew without what is withdrawn, and delete what no commit speaks of."""
    commits = Commit.read(output, stamps(output))
    stale = [shard for shard in shards if shard in commits and not commits[shard].is_whole(plan)]
    for shard in stale:
        explain_shards(output, [shard])
    commits |= Commit.read(output, stale)
    known = {key for shard in shards if shard in commits for key in commits[shard].objects}
    there = (output / store.NAME).sizes()
    planned = [
        key
        for shard in shards
        for part in range(len(plan.parts))
        for key in store.part_keys(plan, plan.shards[shard], part)
    ]
    strays = [key for key in planned if key in there and key not in known]
    for key in strays:
        (output / store.NAME / key).remove()
    return sum(len(commits[shard].objects) for shard in stale) + len(strays)
