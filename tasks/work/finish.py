"""The end of a run: commits held against the plan, the per-image index, consolidated metadata."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import Entries
from tasks.plan import manifest
from tasks.plan.plan import NAME as PLAN
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.commit import FOLDER as COMMITS
from tasks.store.commit import Commit, delivered
from tasks.store.objects import NAME
from tasks.store.template import PENDING, STATUS, publish
from tasks.work.evaluate import Evaluation, unevaluated
from tasks.work.fit import unfitted
from tasks.work.results import ResultRecord, uncomputed


class Incomplete(Exception):
    """Shards of the plan that no commit delivers."""


@dataclass(frozen=True)
class Summary:
    """The outcome of a run: what became of the cohort.

    Attributes
    ----------
    flagged
        Explained images with a flag of their own, on one of their maps, or of a result.
    flags
        Such images by flag in words.
    seconds
        By stage, summed over workers; stages overlap.
    objects, bytes_stored
        Of all that is computed: shards, metrics, artefacts and results.
    computed
        By name of an artefact or result, whether it is there.
    """

    images: int
    explained: int
    quarantined: int
    failed: int
    pending: int
    withdrawn: int
    vanished: int
    flagged: int
    shards: int
    shards_done: int
    objects: int
    bytes_stored: int
    flags: dict[str, int]
    seconds: dict[str, float]
    computed: dict[str, bool] = field(default_factory=dict)

    @property
    def not_explained(self) -> float:
        """Share of the images that are quarantined or failed."""
        return (self.quarantined + self.failed) / max(1, self.images - self.withdrawn)


def summarise(output: Location) -> Summary:
    """Read how far an output is; it may be of a run that is still going on.

    Raises
    ------
    FileNotFoundError
        If there is no plan at `output`.
    """
    plan = Plan.read(output)
    return _summary(output, plan, delivered(output, plan), manifest.load(output, sources=False))


def finish(output: Location) -> Summary:
    """Write the quarantine reasons, the index and the consolidated metadata, as far as they changed.

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
    sizes = output.sizes() if plan.fits or plan.evaluated or plan.results else {}
    if left := unevaluated(output, plan, commits, sizes):
        raise Incomplete(f"{len(left)} of {len(plan.shards)} shards lack metrics, such as {left[:5]}: run again")
    titles = [fit.title for fit in unfitted(output, plan, sizes)]
    titles += [result.title for result in uncomputed(output, plan, sizes)]
    if titles:
        raise Incomplete(f"not computed from what is delivered: {', '.join(titles)}; run again")
    for folder in (NAME, COMMITS):  # of workers that were killed, and whose work another has done
        (output / folder).sweep()
    entries = manifest.load(output, sources=False)
    explained = with_reasons(plan, entries, commits)
    if explained != entries:
        plan.write(output, with_reasons(plan, manifest.load(output), commits))
    elif output.read_all([(output / PLAN).url]) != [plan.copy_for_people]:
        plan.write_copy(output)
    publish(output, plan, explained, status(plan, commits))
    return _summary(output, plan, commits, explained)


def status(plan: Plan, commits: Mapping[int, Commit]) -> NDArray[np.int8]:
    """Say what became of each image."""
    found = np.full(plan.images, PENDING, np.int8)
    for shard in plan.shards:
        if shard.index in commits:
            found[shard.start : shard.stop] = commits[shard.index].status
    return found


def with_reasons(plan: Plan, entries: Sequence[Entry], commits: Mapping[int, Commit]) -> Entries:
    """Enter into the manifest why images were left out."""

    def reasoned() -> Iterator[Entry]:
        for row, entry in enumerate(entries):
            commit = commits.get(row // plan.images_per_shard)
            reason = commit.reasons.get(entry.id) if commit else entry.reason
            yield entry if reason == entry.reason else replace(entry, reason=reason)

    return Entries(reasoned())


def _summary(output: Location, plan: Plan, commits: dict[int, Commit], entries: Entries) -> Summary:
    became = Counter(STATUS[code] for commit in commits.values() for code in commit.status)
    flags: Counter[str] = Counter()
    seconds: Counter[str] = Counter()
    for commit in commits.values():
        flags.update(commit.flags)
        seconds.update(commit.seconds)
    evaluations = Evaluation.read(output, commits) if plan.evaluated else {}
    results = ResultRecord.read_keys(output, [planned.title for planned in plan.results])
    flags.update({flag: len(rows) for result in results.values() for flag, rows in result.flags.items()})
    flagged = {plan.shards[index].start + row for index, commit in commits.items() for row in commit.flagged}
    flagged |= {row for result in results.values() for rows in result.flags.values() for row in rows}
    recorded = [record.objects for record in (*commits.values(), *evaluations.values())]
    recorded += [fit.objects for fit in plan.fits] + [result.delivered.objects for result in results.values()]
    objects = [stored for by_key in recorded for stored in by_key.values()]
    computed = {fit.title: True for fit in plan.fits} | {result.title: True for result in plan.results}
    computed |= {fit.title: False for fit in unfitted(output, plan)}
    computed |= {result.title: False for result in uncomputed(output, plan)}
    return Summary(
        images=plan.images,
        explained=became["explained"],
        quarantined=became["quarantined"],
        failed=became["failed"],
        pending=plan.images - became.total() + became["pending"],
        withdrawn=became["withdrawn"],
        vanished=sum(not present and not withdrawn for present, withdrawn in entries.columns("present", "withdrawn")),
        flagged=len(flagged),
        shards=len(plan.shards),
        shards_done=len(commits),
        objects=len(objects),
        bytes_stored=sum(stored.size for stored in objects),
        flags=dict(flags),
        computed=computed,
        seconds=dict(seconds),
    )
