"""Verify: everything stored, held against the plan, the manifest and the records; and mended where it is damaged."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyarrow import ArrowException

from models.errors import ConfigurationError
from models.explainers.base import MAP_FLAGS
from models.flags import MapFlag
from models.prediction import TARGET_CLASS
from models.targets import NO_CLASS
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import NAME as PLAN
from tasks.plan.plan import Plan
from tasks.plan.planned import StoredObject
from tasks.plan.shards import Shard, digest_rows
from tasks.ratings.reading import damaged_ratings
from tasks.run import complete
from tasks.storage.location import PARTIAL, Location, Unavailable
from tasks.store.commit import STAGED, Commit, disown, stamps
from tasks.store.objects import NAME, Piece, assemble, part_pieces, pieces
from tasks.store.record import problem_with
from tasks.store.template import EXPLAINED, FAILED, template
from tasks.store.variables import Block, part_variables, variables
from tasks.work import evaluate, fit, results
from tasks.work.engines import Engines
from tasks.work.finish import status, with_reasons
from tasks.work.pending import pending

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """One thing that is not as promised.

    Attributes
    ----------
    shard, part
        What has to be delivered again; None if nothing has.
    title
        The artefact or result that has to be computed again.
    """

    what: str
    where: str
    problem: str
    shard: int | None = None
    part: int | None = None
    title: str | None = None


def verify(output: Location, progress: Progress = lambda done, of: None) -> list[Damage]:
    """Read every stored object and coordinate and compare; an empty list means that all is as promised.

    Parameters
    ----------
    progress
        Called with the number of shards checked and of all shards.

    Raises
    ------
    FileNotFoundError
        If there is no plan at `output`.
    Unavailable
        If storage does not answer, or refuses the credentials: nothing is called damaged for that.
    """
    try:
        plan, entries = Plan.read(output), manifest.read(output)
    except (ConfigurationError, ArrowException, OSError) as error:
        if isinstance(error, (FileNotFoundError, Unavailable)):
            raise
        return [Damage("manifest", manifest.NAME, f"damaged, and nothing else can be held against it: {error}")]
    found: list[Damage] = []
    commits = Commit.read(output, range(len(plan.shards)))
    for shard in plan.shards:
        own = entries[shard.start : shard.stop]
        if len(own) < shard.images or digest_rows(shard.rows(own)) != shard.digest:
            found.append(Damage("manifest", f"shard {shard.index}", "does not hold the planned images"))
        elif shard.index not in commits:
            found.append(Damage("shard", str(shard.index), "no valid commit", shard.index))
        else:
            found.extend(_damaged(output, plan, shard, commits[shard.index]))
            found.extend(_not_evaluated(output, plan, shard, commits[shard.index]))
        progress(shard.index + 1, len(plan.shards))
    found.extend(_damaged_artefacts(output, plan))
    written = template(plan, entries, status(plan, commits))
    if all(shard.index in commits for shard in plan.shards):
        found.extend(_damaged_results(output, plan))
        found.extend(_misaligned(output, plan, entries, commits, written))
    found.extend(_strays(output, plan, written.keys()))
    found.extend(Damage("rating", one.file, f"{one.kind}: {one.why}") for one in damaged_ratings(output, entries))
    return found


def repair(output: Location, found: Sequence[Damage]) -> None:
    """Deliver again what is damaged, and write anew what is derived from the manifest and the commits.

    A damaged manifest cannot be mended, nor a rating; and an image whose source has vanished is quarantined.
    """
    plan = Plan.read(output)
    pending(output, plan)
    commits = Commit.read(output, sorted({damage.shard for damage in found if damage.shard is not None}))
    for shard, commit in commits.items():
        parts = {damage.part for damage in found if damage.shard == shard and damage.part is not None}
        disown(output, commit, [key for part in parts & commit.parts.keys() for key in commit.parts[part].objects])
    for damage in found:
        if damage.what == "metric" and damage.shard is not None:
            evaluate.forget(output, damage.shard)
        elif damage.what == "artefact" and damage.title:
            fit.FitRecord.location(output, damage.title).remove()
        elif damage.what == "result" and damage.title:
            results.forget(output, damage.title)
        elif damage.what == "stray":
            (output / damage.where).remove()
    complete(output, Engines())


def _problems(
    output: Location, cut: Iterable[Piece], promised: Mapping[str, StoredObject]
) -> tuple[list[tuple[str, str]], dict[str, bytes]]:
    """Read some objects: key and problem of those that are not as promised, and the others."""
    keys = [piece.key for piece in cut]
    found, objects = [], {}
    for key, data in zip(keys, output.read_all([(output / NAME / key).url for key in keys]), strict=True):
        if problem := problem_with(promised.get(key), data):
            found.append((key, problem))
        elif isinstance(data, bytes):
            objects[key] = data
    return found, objects


def _damaged(output: Location, plan: Plan, shard: Shard, commit: Commit) -> Iterator[Damage]:
    if not commit.is_whole(plan):
        yield Damage("shard", str(shard.index), "not delivered as planned: run again", shard.index)
        return
    blocks: dict[int, Block] = {}
    for part, promised in commit.parts.items():
        cut = part_pieces(plan, shard, part)
        problems, objects = _problems(output, cut, promised.objects)
        for key, problem in problems:
            yield Damage("object", key, problem, shard.index, part)
        if not problems:
            blocks[part] = assemble(part_variables(plan, part), cut, objects, range(shard.images))
    chosen = blocks.get(plan.part_with(TARGET_CLASS), {}).get(TARGET_CLASS)
    for part, block in blocks.items():
        for where, problem in _wrong(plan, part, block, chosen, np.array(commit.status)):
            yield Damage("content", f"{where} in shard {shard.index}", problem, shard.index, part)


def _not_evaluated(output: Location, plan: Plan, shard: Shard, commit: Commit) -> Iterator[Damage]:
    if not plan.evaluated or not commit.is_whole(plan):
        return
    evaluation = evaluate.Evaluation.read(output, [shard.index]).get(shard.index)
    if evaluation is None or evaluate.not_evaluated(plan, commit, evaluation):
        yield Damage("metric", f"shard {shard.index}", "no valid evaluation of what is stored", shard.index)
        return
    problems, _ = _problems(output, evaluate.evaluated_pieces(plan, shard), evaluation.objects)
    for key, problem in problems:
        yield Damage("metric", key, problem, shard.index)


def _damaged_artefacts(output: Location, plan: Plan) -> Iterator[Damage]:
    missing = {planned.title for planned in fit.unfitted(output, plan)}
    for planned in plan.fits:
        if planned.title in missing:
            yield Damage("artefact", planned.title, "no valid record of it: run again", title=planned.title)
            continue
        problems, _ = _problems(output, pieces(plan, variables(plan, planned.outputs), None), planned.objects)
        for key, problem in problems:
            yield Damage("artefact", key, problem, title=planned.title)


def _damaged_results(output: Location, plan: Plan) -> Iterator[Damage]:
    missing = {planned.title for planned in results.uncomputed(output, plan)}
    records = results.ResultRecord.read_keys(output, [planned.title for planned in plan.results])
    for planned in plan.results:
        if planned.title in missing:
            yield Damage("result", planned.title, "not computed from what is stored: run again", title=planned.title)
            continue
        promised = records[planned.title].delivered.objects
        for cut, _ in results.result_pieces(plan, planned):
            for key, problem in _problems(output, cut, promised)[0]:
                yield Damage("result", key, problem, title=planned.title)


def _wrong(
    plan: Plan, part: int, block: Block, chosen: NDArray[np.int32] | None, status: NDArray[np.int8]
) -> Iterator[tuple[str, str]]:
    """Find what a delivered shard cannot hold: by variable, what is wrong with it in how many images."""
    explained = status == EXPLAINED

    def found(name: str, rows: NDArray[np.bool_], problem: str) -> Iterator[tuple[str, str]]:
        if rows.any():
            yield name, f"{problem} in {int(rows.sum())} images, such as row {int(np.flatnonzero(rows)[0])}"

    for output in plan.parts[part].outputs:
        values = block[output.name].reshape(len(status), -1)
        filled = np.isnan(values) if output.fill is None else values == output.fill
        empty = ~explained & ~((status == FAILED) & (output.kind in ("image", "mask")))
        yield from found(output.name, empty & ~filled.all(1), "values of images that were not explained")
        if output.required:
            yield from found(output.name, explained & filled.any(1), "NaN")
        if output.kind == "map" and chosen is not None:
            maps, flags = block[output.name], block[MAP_FLAGS]
            maps = maps.reshape(*maps.shape[:3], -1)
            there = explained[:, None, None] & (chosen != NO_CLASS)[..., None]
            excused = flags & (MapFlag.NOT_FINITE | MapFlag.NO_SOURCE) > 0
            blank = (maps == 0).all(-1) & (flags & MapFlag.BLANK == 0)
            yield from found(output.name, (there & ~excused & ~np.isfinite(maps).all(-1)).any((1, 2)), "NaN")
            yield from found(output.name, blank.any((1, 2)), "blank maps without a flag")


def _misaligned(
    output: Location,
    plan: Plan,
    entries: Sequence[Entry],
    commits: Mapping[int, Commit],
    promised: Mapping[str, bytes],
) -> Iterator[Damage]:
    if with_reasons(plan, entries, commits) != entries:
        yield Damage("manifest", "reason", "differs from the commits: the run was not finished; run again")
    keys = list(promised)
    for key, data in zip(keys, output.read_all([(output / NAME / key).url for key in keys]), strict=True):
        if data != promised[key]:
            problem = "missing" if isinstance(data, FileNotFoundError) else "differs from manifest, plan and commits"
            yield Damage("coordinate" if "/c/" in key else "metadata", key, f"{problem}: run again")
    copy = output.read_all([(output / PLAN).url])[0]
    if copy != plan.copy_for_people:
        yield Damage("plan", PLAN, "differs from the plan in the manifest: run again")


def _planned(plan: Plan) -> Iterator[Piece]:
    """Every object that a run of the plan stores beside metadata and coordinates."""
    for shard in plan.shards:
        for part in range(len(plan.parts)):
            yield from part_pieces(plan, shard, part)
        yield from evaluate.evaluated_pieces(plan, shard)
    for planned in plan.fits:
        yield from pieces(plan, variables(plan, planned.outputs), None)
    for result in plan.results:
        for cut, _ in results.result_pieces(plan, result):
            yield from cut


def _strays(output: Location, plan: Plan, promised: Collection[str]) -> Iterator[Damage]:
    """Find files that are in nobody's plan; what is in it, but not committed, may be on its way."""
    keys = {*promised, *(piece.key for piece in _planned(plan))}
    for path in sorted(output.sizes()):
        folder, _, key = path.partition("/")
        if (folder == NAME and key not in keys) or folder == STAGED or path.endswith(PARTIAL):
            yield Damage("stray", path, "in nobody's plan")
    for shard in sorted(stamps(output)):
        if shard >= len(plan.shards):
            yield Damage("stray", f"commits/{shard:06d}.json", "the plan has no such shard")
