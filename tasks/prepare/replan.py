"""A run onto an output that is there: what it may change, and the plan that goes on from the one before."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.network import Network
from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import AT_ONCE, Entries, flags, packed, with_columns
from tasks.plan.making import make_part
from tasks.plan.plan import Plan
from tasks.plan.planned import Part, PlannedMetric, PlannedResult, PlannedUncertainty
from tasks.plan.shards import cut
from tasks.store.commit import Commit
from tasks.store.template import check_names

P = TypeVar("P", PlannedMetric, PlannedUncertainty, PlannedResult)


class Refused(ConfigurationError):
    """A run that would make two results of one output."""


@dataclass(frozen=True)
class Changes:
    """Numbers of images that differ from the run before, and the explainers that were added."""

    new: int
    changed: int
    vanished: int
    explainers: tuple[str, ...]


def replan(
    there: Plan,
    entries_there: Sequence[Entry],
    commits: Mapping[int, Commit],
    plan: Plan,
    entries: Sequence[Entry],
    network: Network,
    *,
    extend: bool,
    unselected: Collection[str] = (),
) -> tuple[Plan, Entries, Changes]:
    """Go on from the plan of an output, as the cohort and the configuration are now.

    An image's row never moves. New images go after the last row; what changed is explained again in its place; what
    vanished keeps its row and is marked; what was withdrawn does not come back. Labels, covariates and subjects decide
    no map, so they are those that the cohort has now.

    Parameters
    ----------
    there, entries_there, commits
        Plan and manifest of the output, and what it has delivered.
    plan, entries
        What the configuration asks for, as if nothing were there.
    network
        Tells what explainers that are added declare.
    extend
        Whether explainers may be added.
    unselected
        Ids of images that are there, but that this run is not about: they stay as they are.

    Raises
    ------
    Refused
        If the two differ in what would change the images that are delivered already.
    """
    _refuse_differences(there, plan, extend)
    if there.cohort.covariates != plan.cohort.covariates:  # what is known of images that are gone is of other columns
        entries_there = Entries(replace(entry, covariates=()) for entry in entries_there)
    found, again, changes = _rows(there, entries_there, commits, entries, unselected)
    _refuse_another_cohort(there, entries_there, found)
    titles = {explainer.title for explainer in there.explainers}
    added = tuple(explainer for explainer in plan.explainers if explainer.title not in titles)
    parts = tuple(_as_asked(part, plan) for part in there.parts)
    if added:
        parts = (*parts, make_part(added, there.frame, network, first=False))
    shards = cut(found, there.images_per_shard, there.images_at_once, there.shards, again)
    known = {fit.title for fit in there.fits}
    goes_on = plan.model_copy(
        update={
            "shards": shards,
            "parts": parts,
            "fits": (*there.fits, *(fit for fit in plan.fits if fit.title not in known)),
            "deviation": plan.deviation | there.deviation,
            "masks": there.masks,
            "withdrawn": there.withdrawn,
            "metrics": with_added(there.metrics, plan.metrics),
            "uncertainty": with_added(there.uncertainty, plan.uncertainty),
            "results": with_added(there.results, plan.results),
        }
    )
    check_names(goes_on)
    if (shards, goes_on.evaluated, goes_on.results, added) == (there.shards, there.evaluated, there.results, ()):
        goes_on = goes_on.model_copy(update={"versions": there.versions, "run_id": there.run_id})
    return goes_on, found, replace(changes, explainers=tuple(explainer.title for explainer in added))


def with_added(there: Sequence[P], asked: Sequence[P]) -> tuple[P, ...]:
    """Add what is asked for to what is there.

    Raises
    ------
    Refused
        If one of them has the name of another that is there.
    """
    known = {planned.title: planned for planned in there}
    for planned in asked:
        before, now = (_parameters(one) for one in (known.get(planned.title, planned), planned))
        if before != now:
            raise Refused(
                f"the output holds {planned.title!r} with other parameters ({before!r}): give this one another `label`"
            )
    return tuple((known | {planned.title: planned for planned in asked}).values())


def _parameters(planned: PlannedMetric | PlannedUncertainty | PlannedResult) -> Any:
    match planned:
        case PlannedMetric():
            return planned.metric, planned.others
        case PlannedUncertainty():
            return planned.uncertainty
        case PlannedResult():
            return planned.result


def _as_asked(part: Part, plan: Plan) -> Part:
    """Take the explainers that are asked for, which decide the same: their files may lie elsewhere now."""
    asked = {explainer.title: explainer for explainer in plan.explainers}
    return part.model_copy(update={"explainers": tuple(asked[known.title] for known in part.explainers)})


def tombstone(subject: str) -> str:
    """Make the digest that is kept of a subject that was withdrawn."""
    return hashlib.sha256(f"withdrawn {subject}".encode()).hexdigest()


def without_withdrawn(entries: Sequence[Entry], withdrawn: Collection[str]) -> Entries:
    """Leave out what must not come back."""
    if not withdrawn:
        return packed(entries)
    gone = set(withdrawn)
    return Entries(entry for entry in entries if not gone & set(map(tombstone, entry.names)))


def _rows(
    there: Plan,
    entries_there: Sequence[Entry],
    commits: Mapping[int, Commit],
    entries: Sequence[Entry],
    unselected: Collection[str],
) -> tuple[Entries, set[int], Changes]:
    """The manifest as it is now, and the rows that are to be explained again."""
    before, now = packed(entries_there), packed(entries)
    once_more = np.zeros(len(before), bool)
    once_more[[there.shards[index].start + row for index, commit in commits.items() for row in commit.again]] = True
    places = now.places(before)
    others, again, vanished = pa.array(unselected, pa.string()), set[int](), 0

    def batches() -> Iterator[pa.RecordBatch]:
        nonlocal vanished
        row = 0
        for old, new in zip(before.batches(AT_ONCE), now.take(np.maximum(places, 0)), strict=True):
            place = places[row : row + len(old)]
            stays = flags(pc.or_(old["withdrawn"], _are_among(others, old)))
            gone = ~stays & ((place < 0) | flags(pc.and_(pc.is_null(new["digest"]), pc.is_valid(old["digest"]))))
            differs = ~stays & ~gone & (_differ(old["digest"], new["digest"]) | _differ(old["mask"], new["mask"]))
            # What is planned once more is in its old batch, so that its maps are what they were to be.
            keeps_reason = ~stays & ~gone & ~differs & ~once_more[row : row + len(old)]
            vanished += int(gone.sum())
            again.update((row + np.flatnonzero(differs)).tolist())
            yield _chosen(old, new, stays | gone, gone, keeps_reason)
            row += len(old)
        fresh = np.ones(len(now), bool)
        fresh[places[places >= 0]] = False
        yield from now.take(np.flatnonzero(fresh))

    found = Entries.of(batches())
    return found, again, Changes(len(found) - len(before), len(again), vanished, ())


def _chosen(
    old: pa.RecordBatch,
    new: pa.RecordBatch,
    stays: NDArray[np.bool_],
    gone: NDArray[np.bool_],
    keeps_reason: NDArray[np.bool_],
) -> pa.RecordBatch:
    """Take each row as it was or as it is now, mark what is gone, and keep the reasons of what failed before."""
    rows = pa.concat_batches([old, new]).take(pa.array(np.arange(len(old)) + np.where(stays, 0, len(old))))
    known = pc.if_else(pa.array(keeps_reason), pc.coalesce(rows["reason"], old["reason"]), rows["reason"])
    present = pc.and_(rows["present"], pa.array(~gone))
    return with_columns(rows, reason=known, present=present)


def _are_among(ids: pa.Array, rows: pa.RecordBatch) -> pa.BooleanArray:
    """Tell which images have one of some ids, or are frames of a file that has."""
    files = pc.replace_substring_regex(rows["id"], "#[^#]*$", "")
    listed = pc.if_else(pc.is_valid(rows["frame"]), files, rows["id"])
    return pc.or_(pc.is_in(rows["id"], value_set=ids), pc.is_in(listed, value_set=ids))


def _differ(old: pa.StringArray, new: pa.StringArray) -> NDArray[np.bool_]:
    return flags(pc.not_equal(pc.fill_null(old, ""), pc.fill_null(new, "")))


_DECIDING: dict[str, Callable[[Plan], Any]] = {
    "layout": lambda plan: plan.layout,
    "model.network": lambda plan: plan.model.network,
    "model digest": lambda plan: plan.model.sha256,
    "model.classes": lambda plan: list(plan.model.classes),
    "model.channels": lambda plan: plan.model.channels,
    "model.input_shape": lambda plan: list(plan.model.input_shape),
    "model.windows": lambda plan: plan.model.model_dump(mode="json")["windows"],
    "model.activation": lambda plan: plan.model.activation,
    "model.output": lambda plan: plan.model.output,
    "model.outputs": lambda plan: plan.model.outputs,
    "model.combine": lambda plan: plan.model.combine,
    "model.head": lambda plan: plan.deciding_model.get("head"),
    "model.reference": lambda plan: plan.deciding_model.get("reference"),
    "target": lambda plan: plan.target.model_dump(mode="json"),
    "cohort.preprocessing": lambda plan: plan.cohort.preprocessing,
    "cohort.identifiers": lambda plan: plan.cohort.identifiers,
    "cohort.window": lambda plan: plan.cohort.model_dump(mode="json")["window"],
    "cohort.axes": lambda plan: plan.cohort.axes,
    "cohort.color": lambda plan: plan.cohort.color,
    "cohort.frames": lambda plan: plan.cohort.frames,
    "cohort.sequences": lambda plan: list(plan.cohort.sequence_names),
    "cohort.align": lambda plan: plan.cohort.align,
    "cohort.slides": lambda plan: plan.cohort.model_dump(mode="json")["slides"],
    "cohort.record": lambda plan: plan.cohort.model_dump(mode="json")["record"],
    "cohort.mask": lambda plan: plan.cohort.model_dump(mode="json")["mask"],
    "channels": lambda plan: plan.channels,
    "batch_size": lambda plan: plan.batch_size,
    "precision": lambda plan: plan.precision,
}


def _refuse_differences(there: Plan, plan: Plan, extend: bool) -> None:
    differing = [
        (field, old, new)
        for field, deciding in _DECIDING.items()
        if (old := deciding(there)) != (new := deciding(plan))
    ]
    if plan.masks and not there.masks:
        differing.append(("masks in the cohort", "none", "some"))
    if there.cohort.covariates and not plan.cohort.covariates:  # others may be named, which takes the place of these
        differing.append(("cohort.covariates", list(there.cohort.covariates), []))
    if there.fits and plan.cohort.background != there.cohort.background:
        differing.append(("cohort.background", there.cohort.background, plan.cohort.background))
    before, now = ({known.title: known.deciding for known in one.explainers} for one in (there, plan))
    only_added = all(now.get(title) == known for title, known in before.items())
    if before != now and not (only_added and extend):
        differing.append(("explainers", *_apart(before, now)))
    if not differing:
        return
    extendable = only_added and [field for field, *_ in differing] == ["explainers"]
    raise Refused(
        "the output holds another run (there → asked for):\n"
        + "\n".join(f"  {field}: {_shown(old)} → {_shown(new)}" for field, old, new in differing)
        + "\nways on: name another output; "
        + ("--extend, which computes just the explainers that were added; " if extendable else "")
        + "--overwrite, which deletes what is there"
        + ("" if extendable else "; --extend is no way here, since more than added explainers differs")
    )


def _apart(before: dict[str, Any], now: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """Names alone where they tell the difference, parameters where they do not."""
    if list(before) != list(now):
        return list(before), list(now)
    changed = [title for title in before if before[title] != now[title]]
    return [before[title] for title in changed], [now[title] for title in changed]


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _refuse_another_cohort(there: Plan, before: Sequence[Entry], now: Sequence[Entry]) -> None:
    pairs = zip(packed(before).columns("digest"), packed(now).columns("digest", "present"), strict=False)
    images = same = 0
    for had, (has, present) in pairs:
        images += bool(had)
        same += bool(had) and present and had == has
    if images and not same:
        raise Refused(
            f"none of the {images} images of the output is in the cohort as it was, which came from "
            f"{there.cohort.source}: is this another cohort? Name another output, or --overwrite this one"
        )
