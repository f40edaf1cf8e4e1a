"""Verify: everything stored, held against the plan, the manifest and the commits; and mended where it is damaged."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pyarrow import ArrowException

from models.flags import MapFlag
from models.targets import NO_CLASS
from tasks.cohort.entry import Entry
from tasks.plan import manifest
from tasks.plan.plan import NAME as PLAN
from tasks.plan.plan import Plan
from tasks.plan.shards import Shard, digest_rows
from tasks.storage.location import PARTIAL, Location, Unavailable
from tasks.store import store
from tasks.store.commit import STAGED, Commit, disown, stamps
from tasks.store.store import EXPLAINED, FAILED, Block
from tasks.store.variables import part_variables
from tasks.work import evaluate
from tasks.work.explain import explain_shards
from tasks.work.finish import finish, status, with_reasons
from tasks.work.pending import pending

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Damage:
    """One thing that is not as promised.

    Attributes
    ----------
    shard, part
        What has to be delivered again; None if nothing has.
    """

    what: str
    where: str
    problem: str
    shard: int | None = None
    part: int | None = None


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
    except (ValueError, ArrowException, OSError) as error:
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
            found.extend(_misjudged(output, plan, shard, commits[shard.index]))
        progress(shard.index + 1, len(plan.shards))
    template = store.template(plan, entries, status(plan, commits))
    if all(shard.index in commits for shard in plan.shards):
        found.extend(_misaligned(output, plan, entries, commits, template))
    found.extend(_strays(output, plan, template.keys()))
    return found


def repair(output: Location, found: Sequence[Damage]) -> None:
    """Deliver again what is damaged, and write anew what is derived from the manifest and the commits.

    Only a damaged manifest cannot be mended; and an image whose source has vanished is quarantined.
    """
    plan = Plan.read(output)
    pending(output, plan)
    commits = Commit.read(output, sorted({damage.shard for damage in found if damage.shard is not None}))
    for shard, commit in commits.items():
        parts = {damage.part for damage in found if damage.shard == shard and damage.part is not None}
        disown(output, commit, [key for part in parts & commit.parts.keys() for key in commit.parts[part].objects])
    for damage in found:
        if damage.what == "metric" and damage.shard is not None:
            evaluate.withdraw_judgement(output, damage.shard)
    lacking = pending(output, plan)
    explain_shards(output, lacking)
    evaluate.judge_shards(output, lacking)
    for damage in found:
        if damage.what == "stray":
            (output / damage.where).remove()
    store.set_up(output, plan, manifest.read(output))
    finish(output)


def _damaged(output: Location, plan: Plan, shard: Shard, commit: Commit) -> Iterator[Damage]:
    if not commit.is_whole(plan):
        yield Damage("shard", str(shard.index), "not delivered as planned: run again", shard.index)
        return
    blocks: dict[int, Block] = {}
    for part, promised in commit.parts.items():
        objects: dict[str, bytes] = {}
        keys = store.part_keys(plan, shard, part)
        for key, data in zip(keys, output.read_all([(output / store.NAME / key).url for key in keys]), strict=True):
            if problem := _problem(promised.objects.get(key), data):
                yield Damage("object", key, problem, shard.index, part)
            elif isinstance(data, bytes):
                objects[key] = data
        if len(objects) == len(keys):
            blocks[part] = store.assemble(plan, shard, part, objects, shard.images)
    if 0 in blocks:
        for part, block in blocks.items():
            for where, problem in _wrong(plan, part, block, blocks[0], np.array(commit.status)):
                yield Damage("content", f"{where} in shard {shard.index}", problem, shard.index, part)


def _misjudged(output: Location, plan: Plan, shard: Shard, commit: Commit) -> Iterator[Damage]:
    if not plan.measures or not commit.is_whole(plan):
        return
    judgement = evaluate.Judgement.read(output, [shard.index]).get(shard.index)
    if judgement is None or evaluate.lacking(plan, commit, judgement):
        yield Damage("metric", f"shard {shard.index}", "no valid judgement of what is stored", shard.index)
        return
    keys = store.measured_keys(plan, shard)
    for key, data in zip(keys, output.read_all([(output / store.NAME / key).url for key in keys]), strict=True):
        if problem := _problem(judgement.objects.get(key), data):
            yield Damage("metric", key, problem, shard.index)


def _problem(promised: store.StoredObject | None, data: bytes | Exception) -> str:
    if isinstance(data, Unavailable):
        raise data
    if promised is None:
        return "the commit does not speak of it"
    if isinstance(data, FileNotFoundError):
        return "missing"
    if isinstance(data, Exception):
        return f"unreadable: {type(data).__name__}: {data}"
    if len(data) != promised.size:
        return f"{len(data)} bytes, {promised.size} were written"
    return "" if hashlib.sha256(data).hexdigest() == promised.sha256 else "its bytes changed"


def _wrong(plan: Plan, part: int, block: Block, first: Block, status: NDArray[np.int8]) -> Iterator[tuple[str, str]]:
    """What a delivered shard cannot hold: by variable, what is wrong with it in how many images."""
    explained = status == EXPLAINED

    def found(name: str, rows: NDArray[np.bool_], problem: str) -> Iterator[tuple[str, str]]:
        if rows.any():
            yield name, f"{problem} in {int(rows.sum())} images, such as row {int(np.flatnonzero(rows)[0])}"

    for name, variable in part_variables(plan, part).items():
        values = block[name].reshape(len(status), -1)
        filled = np.isnan(values) if np.isnan(variable.fill) else values == variable.fill
        empty = ~explained & ~((status == FAILED) & (name in ("image", "affine", "mask")))
        yield from found(name, empty & ~filled.all(1), "values of images that were not explained")
        if name in ("logit", "probability"):
            yield from found(name, explained & filled.any(1), "NaN")
    if "attribution" not in block:
        return
    maps, flags = block["attribution"], block["map_flags"]
    maps = maps.reshape(*maps.shape[:3], -1)
    there = explained[:, None, None] & (first["target_class"] != NO_CLASS)[..., None]
    excused = flags & (MapFlag.NOT_FINITE | MapFlag.NO_SOURCE) > 0
    blank = (maps == 0).all(-1)
    yield from found("attribution", (there & ~excused & ~np.isfinite(maps).all(-1)).any((1, 2)), "NaN")
    yield from found("attribution", (blank & (flags & MapFlag.BLANK == 0)).any((1, 2)), "blank maps without a flag")


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
    for key, data in zip(keys, output.read_all([(output / store.NAME / key).url for key in keys]), strict=True):
        if data != promised[key]:
            problem = "missing" if isinstance(data, FileNotFoundError) else "differs from manifest, plan and commits"
            yield Damage("coordinate" if "/c/" in key else "metadata", key, f"{problem}: run again")
    copy = output.read_all([(output / PLAN).url])[0]
    if copy != plan.copy_for_people:
        yield Damage("plan", PLAN, "differs from the plan in the manifest: run again")


def _strays(output: Location, plan: Plan, promised: Collection[str]) -> Iterator[Damage]:
    """Files that are in nobody's plan; what is in it, but not committed, may be on its way."""
    parts = range(len(plan.parts))
    keys = {*promised, *(key for shard in plan.shards for part in parts for key in store.part_keys(plan, shard, part))}
    keys |= {key for shard in plan.shards for key in store.measured_keys(plan, shard)}
    for path in sorted(output.sizes()):
        folder, _, key = path.partition("/")
        if (folder == store.NAME and key not in keys) or folder == STAGED or path.endswith(PARTIAL):
            yield Damage("stray", path, "in nobody's plan")
    for shard in sorted(stamps(output)):
        if shard >= len(plan.shards):
            yield Damage("stray", f"commits/{shard:06d}.json", "the plan has no such shard")
