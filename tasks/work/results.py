"""The cohort stage: results over all images, computed from the store once every shard is delivered."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from models.outputs import Frame
from models.results import Arrays
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedResult
from tasks.plan.shards import digest_of
from tasks.storage.location import Location
from tasks.store.commit import Commit, delivered
from tasks.store.flags import raised
from tasks.store.objects import NAME, Piece, pieces, read_shard, write
from tasks.store.record import Delivered, NamedRecord, StoredObject
from tasks.store.template import EXPLAINED
from tasks.store.variables import Variable, empty_block, variables
from tasks.work.evaluate import Evaluation

logger = logging.getLogger(__name__)


class ResultRecord(NamedRecord):
    """The record of a result.

    Attributes
    ----------
    flags
        Rows by flag in words, such as "regions outside"; without those that no image has.
    """

    folder = "results"

    flags: dict[str, tuple[int, ...]]


@dataclass(frozen=True)
class StoredCohort:
    """A stored cohort whose shards are all delivered, as results read it: `models.results.Stored`."""

    output: Location
    plan: Plan
    entries: Sequence[Entry]
    commits: Mapping[int, Commit]
    evaluations: Mapping[int, Evaluation]

    @classmethod
    def read(cls, output: Location, plan: Plan) -> "StoredCohort":
        commits = delivered(output, plan)
        evaluations = Evaluation.read(output, commits) if plan.evaluated else {}
        return cls(output, plan, manifest.read(output, sources=False), commits, evaluations)

    @property
    def frame(self) -> Frame:
        return self.plan.frame

    @property
    def ids(self) -> Sequence[str]:
        return [entry.id for entry in self.entries]

    @property
    def labels(self) -> Sequence[str]:
        return [entry.label or "" for entry in self.entries]

    @property
    def covariates(self) -> Mapping[str, Sequence[str]]:
        names = self.frame.covariates
        words = [entry.covariates or ("",) * len(names) for entry in self.entries]
        return {name: [own[place] for own in words] for place, name in enumerate(names)}

    @property
    def subjects(self) -> Sequence[str]:
        return [entry.subject or entry.id for entry in self.entries]

    @cached_property
    def explained(self) -> NDArray[np.bool_]:
        return np.concatenate([np.array(self.commits[shard.index].status) == EXPLAINED for shard in self.plan.shards])

    def promised(self, shard: int) -> dict[str, StoredObject]:
        """Collect what the records of a shard speak of, by key."""
        evaluation = self.evaluations.get(shard)
        return self.commits[shard].objects | (evaluation.objects if evaluation else {})

    def blocks(self, *names: str) -> Iterator[tuple[slice, Arrays]]:
        for shard in self.plan.shards:
            block = read_shard(self.output, self.plan, shard, self.promised(shard.index), names)
            yield slice(shard.start, shard.stop), block


def uncomputed(output: Location, plan: Plan, sizes: Mapping[str, int] | None = None) -> list[PlannedResult]:
    """Find the results that are not stored as they come of what is delivered; all, as long as a shard is missing.

    Parameters
    ----------
    sizes
        Of every file of the output; None: the results' objects are not looked at.
    """
    if not plan.results:
        return []
    cohort = StoredCohort.read(output, plan)
    if len(cohort.commits) < len(plan.shards):
        return list(plan.results)
    records = ResultRecord.read_keys(output, [planned.title for planned in plan.results])

    def is_there(planned: PlannedResult) -> bool:
        known = records.get(planned.title)
        return (
            known is not None
            and known.delivered.digest == _digest(cohort, planned)
            and (
                sizes is None
                or all(sizes.get(f"{NAME}/{key}") == one.size for key, one in known.delivered.objects.items())
            )
        )

    return [planned for planned in plan.results if not is_there(planned)]


def compute_results(output: Location) -> None:
    """Compute the results that are missing, or that do not come of what is delivered now.

    Raises
    ------
    OSError
        If what is stored is damaged.
    """
    plan = Plan.read(output)
    lacking = uncomputed(output, plan, output.sizes() if plan.results else {})
    cohort = StoredCohort.read(output, plan) if lacking else None
    for planned in lacking:
        assert cohort is not None
        described = variables(plan, planned.outputs)
        found = empty_block(described, plan.images)
        for name, values in planned.result.compute(cohort).items():
            found[name][...] = values  # which has the declared shape and type, or this fails
        objects: dict[str, StoredObject] = {}
        for cut, rows in result_pieces(plan, planned):
            own = {name: values[rows] if described[name].output.per_image else values for name, values in found.items()}
            objects |= write(output / NAME, cut, own)
        delivered_now = Delivered(digest=_digest(cohort, planned), objects=objects)
        record = ResultRecord(title=planned.title, delivered=delivered_now, flags=_flagged(described, found))
        record.write(output)
        logger.info("result %s computed over %d images", planned.title, int(cohort.explained.sum()))


def _flagged(described: Mapping[str, Variable], found: Arrays) -> dict[str, tuple[int, ...]]:
    by_image = [one.output for one in described.values() if one.output.per_image and one.output.flags]
    words = {flag: rows for one in by_image for flag, rows in raised(one.name, one.flags, found[one.name]).items()}
    return {flag: tuple(np.flatnonzero(rows).tolist()) for flag, rows in words.items() if rows.any()}


def result_pieces(plan: Plan, planned: PlannedResult) -> Iterator[tuple[list[Piece], slice]]:
    """Cut the arrays of a result into objects: those without `image_id`, then shard by shard the rows of the others."""
    whole = variables(plan, [output for output in planned.outputs if not output.per_image])
    by_image = variables(plan, [output for output in planned.outputs if output.per_image])
    yield list(pieces(plan, whole, None)), slice(0)
    for shard in plan.shards if by_image else ():
        yield list(pieces(plan, by_image, shard)), slice(shard.start, shard.stop)


def forget(output: Location, title: str) -> None:
    """Take back what is said of a result: it will be computed again."""
    ResultRecord.location(output, title).remove()


def _digest(cohort: StoredCohort, planned: PlannedResult) -> str:
    """SHA-256 over what a result is computed from, and how."""
    names = set(planned.result.reads())
    read = {
        key: stored.sha256
        for shard in cohort.plan.shards
        for key, stored in cohort.promised(shard.index).items()
        if key.partition("/")[0] in names
    }
    return digest_of(
        {
            "result": planned.result.model_dump(mode="json"),
            "read": read,
            "status": [cohort.commits[shard.index].status for shard in cohort.plan.shards],
            "rows": [(entry.id, entry.label, entry.subject) for entry in cohort.entries],
            "covariates": cohort.covariates,
        }
    )
