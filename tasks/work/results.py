"""The cohort stage: results over all images, computed from the store once every shard is delivered."""

import logging
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from graphlib import TopologicalSorter

import numpy as np
import torch
from numpy.typing import NDArray

from models.network import Network
from models.outputs import Frame, Output
from models.prediction import IMAGE
from models.results import Arrays
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedResult
from tasks.plan.shards import OBJECT_LIMIT, digest_of
from tasks.storage.location import Location
from tasks.store.commit import Commit, delivered
from tasks.store.flags import raised
from tasks.store.objects import NAME, Piece, open_shard, pieces, read_whole, write
from tasks.store.record import Delivered, NamedRecord, StoredObject
from tasks.store.template import EXPLAINED
from tasks.store.variables import Variable, empty_block, variables
from tasks.work.engines import Engines
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
    """A stored cohort whose shards are all delivered, as results read it: `models.results.Stored`.

    Attributes
    ----------
    results
        The records of results, by title.
    """

    output: Location
    plan: Plan
    entries: Sequence[Entry]
    commits: Mapping[int, Commit]
    evaluations: Mapping[int, Evaluation]
    results: Mapping[str, ResultRecord]
    engines: Engines

    @classmethod
    def read(cls, output: Location, plan: Plan, engines: Engines | None = None) -> "StoredCohort":
        commits = delivered(output, plan)
        evaluations = Evaluation.read(output, commits) if plan.evaluated else {}
        results = ResultRecord.read_keys(output, [planned.title for planned in plan.results])
        entries = manifest.read(output, sources=False)
        return cls(output, plan, entries, commits, evaluations, results, engines or Engines())

    @property
    def frame(self) -> Frame:
        return self.plan.frame

    @cached_property
    def outputs(self) -> Mapping[str, Output]:
        by_shard = ({_output(key) for key in self.promised(shard.index)} for shard in self.plan.shards)
        there = set.intersection(*by_shard) | {_output(key) for key in self.computed}
        return {name: output for name, output in self.plan.outputs.items() if name in there}

    @property
    def ids(self) -> Sequence[str]:
        return [entry.id for entry in self.entries]

    @property
    def labels(self) -> Sequence[str]:
        return [entry.label or "" for entry in self.entries]

    @property
    def concepts(self) -> Collection[str]:
        return self.plan.concepts

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

    @cached_property
    def measures(self) -> Mapping[str, NDArray[np.float64]]:
        names = self.plan.cohort.measures
        none = (None,) * len(names)
        values = np.array([entry.measures or none for entry in self.entries], np.float64)
        return dict(zip(names, values.reshape(-1, len(names)).T, strict=True))

    @property
    def network(self) -> Network:
        return self.engines.network(self.plan)

    def promised(self, shard: int) -> dict[str, StoredObject]:
        """Collect what the records of a shard speak of, by key."""
        evaluation = self.evaluations.get(shard)
        return self.commits[shard].objects | (evaluation.objects if evaluation else {})

    @cached_property
    def computed(self) -> dict[str, StoredObject]:
        """Every object of a result, by key."""
        return {key: stored for one in self.results.values() for key, stored in one.delivered.objects.items()}

    def blocks(self, *names: str) -> Iterator[tuple[slice, Arrays]]:
        computed = self.computed
        described = variables(self.plan, [self.outputs[name] for name in names if name in self.outputs])
        row_bytes = sum(math.prod(one.shape) * one.itemsize for one in described.values())
        step = max(1, OBJECT_LIMIT // max(1, row_bytes))
        for shard in self.plan.shards:
            stored = open_shard(self.output, self.plan, shard, self.promised(shard.index) | computed, names)
            for first in range(0, shard.images, step):
                rows = range(first, min(first + step, shard.images))
                yield slice(shard.start + rows.start, shard.start + rows.stop), stored.rows(rows)

    def whole(self, *names: str) -> Arrays:
        block = read_whole(self.output, self.plan, [self.outputs[name] for name in names], self.computed)
        if block is None:
            raise OSError(f"a result of {self.output} is damaged: `cohortlens verify --repair` mends it")
        return block

    def inputs(self, rows: NDArray[np.intp]) -> NDArray[np.float32]:
        preprocessing = self.plan.cohort.make_preprocessing()
        found: dict[int, NDArray[np.float32]] = {}
        for shard in self.plan.shards:
            if own := [row for row in rows.tolist() if shard.start <= row < shard.stop]:
                stored = open_shard(self.output, self.plan, shard, self.promised(shard.index), [IMAGE])
                images = stored.rows([row - shard.start for row in own])[IMAGE]
                prepared = (preprocessing.network_input(torch.from_numpy(image)) for image in images)
                found |= dict(zip(own, prepared, strict=True))
        return np.stack([found[row] for row in rows.tolist()])


def uncomputed(output: Location, plan: Plan, sizes: Mapping[str, int] | None = None) -> list[PlannedResult]:
    """Find the results that are not stored as they come of what is delivered, in the order in which to compute them.

    They are all, as long as a shard is missing. Where one is not, nor are those that read it.

    Parameters
    ----------
    sizes
        Of every file of the output; None: the results' objects are not looked at.
    """
    if not plan.results:
        return []
    cohort = StoredCohort.read(output, plan)
    if len(cohort.commits) < len(plan.shards):
        return in_order(plan)
    lacking: list[PlannedResult] = []
    for planned in in_order(plan):
        reads = _reads(planned, plan.outputs)
        follows = any(output.name in reads for one in lacking for output in one.outputs)
        if follows or not _is_stored(cohort, planned, sizes):
            lacking.append(planned)
    return lacking


def _is_stored(cohort: StoredCohort, planned: PlannedResult, sizes: Mapping[str, int] | None) -> bool:
    """Tell whether a result is stored as it comes of what is delivered."""
    record = cohort.results.get(planned.title)
    if record is None or record.delivered.digest != _digest(cohort, planned):
        return False
    objects = record.delivered.objects
    return sizes is None or all(sizes.get(f"{NAME}/{key}") == one.size for key, one in objects.items())


def in_order(plan: Plan) -> list[PlannedResult]:
    """Order the results of a plan: each comes after those whose outputs it reads."""
    by_title = {planned.title: planned for planned in plan.results}
    of = {output.name: planned.title for planned in plan.results for output in planned.outputs}
    read = {title: _reads(one, plan.outputs) & of.keys() for title, one in by_title.items()}
    graph = {title: sorted({of[name] for name in names}) for title, names in read.items()}
    return [by_title[title] for title in TopologicalSorter(graph).static_order()]


def _reads(planned: PlannedResult, outputs: Mapping[str, Output]) -> set[str]:
    return {*planned.result.reads(), *planned.result.also_reads(outputs)}


def _output(key: str) -> str:
    """Name the output that an object belongs to."""
    return key.partition("/")[0]


def compute_results(output: Location, engines: Engines) -> None:
    """Compute the results that are missing, or that do not come of what is delivered now.

    Parameters
    ----------
    engines
        Of this process, for the results that ask the network.

    Raises
    ------
    OSError
        If what is stored is damaged.
    """
    plan = Plan.read(output)
    lacking = uncomputed(output, plan, output.sizes() if plan.results else {})
    cohort = StoredCohort.read(output, plan, engines) if lacking else None
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
        cohort = replace(cohort, results={**cohort.results, record.title: record})
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


def erase_stale(output: Location, plan: Plan) -> None:
    """Delete the results that do not come of what is delivered now: they may tell of images that were withdrawn."""
    for planned in uncomputed(output, plan):
        forget(output, planned.title)
        for cut, _ in result_pieces(plan, planned):
            for piece in cut:
                (output / NAME / piece.key).remove()


def _digest(cohort: StoredCohort, planned: PlannedResult) -> str:
    """SHA-256 over what a result is computed from, and how."""
    names = _reads(planned, cohort.outputs)
    promised = (*(cohort.promised(shard.index) for shard in cohort.plan.shards), cohort.computed)
    read = {key: stored.sha256 for objects in promised for key, stored in objects.items() if _output(key) in names}
    return digest_of(
        {
            "result": planned.result.model_dump(mode="json"),
            "read": read,
            "status": [cohort.commits[shard.index].status for shard in cohort.plan.shards],
            "rows": [(entry.id, entry.label, entry.subject) for entry in cohort.entries],
            "concepts": sorted(cohort.concepts),
            "measures": {name: [*map(str, cohort.measures[name])] for name in planned.result.reads_measures()},
            "covariates": cohort.covariates,
        }
    )
