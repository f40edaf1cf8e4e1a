"""The text that the command line prints, as tables; all of it is made plain first, since it may come from a cohort."""

import json
import sys
from collections.abc import Iterable
from datetime import timedelta
from itertools import chain
from typing import TYPE_CHECKING, Any

import click
from pydantic_core import to_jsonable_python

from models.phrases import counted
from tasks.plain import plain

if TYPE_CHECKING:
    from rich.table import Table

    from tasks.plan.plan import Plan
    from tasks.prepare.prepare import Prepared
    from tasks.prepare.trial import Disagreement
    from tasks.ratings.importing import Imported
    from tasks.ratings.statistics import Estimate
    from tasks.ratings.summary import Answers
    from tasks.ratings.summary import Summary as RatingSummary
    from tasks.upkeep.verify import Damage
    from tasks.work.finish import Summary

_DAMAGE_SHOWN = 200
_REFUSED_SHOWN = 20
_ENDLESS = 100_000
"""The width of a line that is no terminal's: nothing is wrapped that another program may read."""

Rows = Iterable[tuple[str, str]]


def json_of(content: Any) -> str:
    """Write dataclasses, models and what holds them as JSON; characters beyond ASCII are escaped."""
    return json.dumps(to_jsonable_python(content), indent=1)


def json_of_plan(prepared: "Prepared") -> str:
    """Write what a plan promises and costs as JSON: sizes in bytes, times in hours."""
    plan = prepared.plan
    return json_of(
        {
            "images": prepared.cost.images,
            "quarantined": [{"id": entry.id, "reason": entry.reason} for entry in prepared.entries if entry.reason],
            "shards": len(plan.shards),
            "form": prepared.form,
            "offered": prepared.offered,
            "folds": prepared.folds,
            "explainers": plan.explainers,
            "targets": plan.target.labels(plan.model.classes),
            "evaluated": [one.title for one in plan.evaluated],
            "results": [planned.title for planned in plan.results],
            "identifiers": prepared.identifiers,
            "changes": prepared.changes,
            "cost": prepared.cost,
        }
    )


def print_summary(summary: "Summary", **places: object) -> None:
    """Print what became of a cohort, and by name where something is."""
    _print_rows(chain(_of_summary(summary), ((name, str(place)) for name, place in places.items())))


def print_plan(prepared: "Prepared") -> None:
    _print_rows(_of_plan(prepared))


def print_damage(found: "list[Damage]") -> None:
    from rich.table import Table

    if not found:
        click.echo("all as promised")
        return
    table = Table("what", "where", "problem", title=f"{len(found)} problems", title_justify="left")
    _print(table, ((damage.what, damage.where, damage.problem) for damage in found[:_DAMAGE_SHOWN]))
    if len(found) > _DAMAGE_SHOWN:
        click.echo(f"and {len(found) - _DAMAGE_SHOWN} more")


def print_ratings(summary: "RatingSummary", brought: "Imported | None") -> None:
    """Print what ratings say, and by name which do not count."""
    from rich.table import Table

    _print_rows(_of_ratings(summary, brought))
    apart = [*(brought.refused if brought else ()), *summary.apart]
    if apart:
        table = Table("kept apart", "file", "why", title_justify="left")
        _print(table, ((one.kind, one.file, one.why) for one in apart[:_REFUSED_SHOWN]))
    if len(apart) > _REFUSED_SHOWN:
        click.echo(f"and {len(apart) - _REFUSED_SHOWN} more")


def _of_summary(summary: "Summary") -> Rows:
    for name in ("images", "explained", "quarantined", "failed", "pending", "withdrawn", "vanished", "flagged"):
        yield name, str(getattr(summary, name))
    for flag, images in summary.flags.items():
        yield f"  {flag}", str(images)
    yield "shards", f"{summary.shards_done} of {summary.shards}"
    for title, is_there in summary.computed.items():
        yield title, "computed" if is_there else "not computed yet"
    yield "stored", f"{summary.bytes_stored / 1e6:.1f} MB in {summary.objects} objects"


def _of_ratings(summary: "RatingSummary", brought: "Imported | None") -> Rows:
    if brought is not None:
        yield "imported", f"{counted(brought.saved, 'rating')}; {counted(len(brought.refused), 'file')} refused"
    yield "ratings", f"{summary.ratings} of {counted(summary.images, 'image')}; {len(summary.apart)} kept apart"
    for rater, given in summary.raters.items():
        yield f"  {rater}", str(given)
    for answers in summary.answers:
        yield from _of_answers(answers)
    for one in summary.preferences:
        over = one.over or "the others shown"
        yield f"{one.explainer} preferred to {over}", f"{_estimated(one.share)} of {counted(one.ratings, 'rating')}"
    for against in summary.regions:
        told = f"{_estimated(against.by_region)} against drawn regions, {_estimated(against.by_mask)} against masks"
        yield f"{against.metric} of {against.explainer}", f"{told}, over {counted(against.maps, 'map')}"


def _of_answers(answers: "Answers") -> Rows:
    if not any(answers.counts.values()):
        return
    counts = ", ".join(f"{count} {verdict}" for verdict, count in answers.counts.items())
    yield answers.question, f"{counts}; {_estimated(answers.agree)} agree with the model"
    if answers.cases:
        kappa, ac1 = _estimated(answers.fleiss_kappa), _estimated(answers.ac1)
        yield "  between raters", f"AC1 {ac1}, Fleiss' kappa {kappa}, on {counted(answers.cases, 'case')}"
    for pair in answers.pairs:
        yield (
            f"  {pair.first}, {pair.second}",
            f"Cohen's kappa {_estimated(pair.kappa)}, on {counted(pair.cases, 'case')}",
        )


def _estimated(estimate: "Estimate") -> str:
    if estimate.value is None:
        return "not defined"
    return f"{estimate.value:.2f}" + (
        "" if estimate.low is None or estimate.high is None else f" ({estimate.low:.2f} to {estimate.high:.2f})"
    )


def _of_plan(prepared: "Prepared") -> Rows:
    from rich.filesize import decimal

    plan, cost = prepared.plan, prepared.cost
    refused = [entry for entry in prepared.entries if entry.reason]
    yield "images", f"{cost.images}, of them {len(refused)} quarantined"
    yield "subjects", _subjects(prepared)
    if changes := prepared.changes:
        counts = (f"{getattr(changes, name)} {name}" for name in ("new", "changed", "vanished"))
        yield "there already", f"{', '.join(counts)}; explainers added: {', '.join(changes.explainers) or 'none'}"
        if changes.vanished > len(prepared.entries) / 2:
            yield "", "most of it is not in the cohort any more: is it another output's?"
    yield "form", f"{prepared.form}: offers {_offered(prepared)}"
    if folds := prepared.folds:
        yield "folds", _folds(folds)
    yield "shards", f"{len(plan.shards)} of {plan.images_per_shard} images"
    yield "maps", f"{', '.join(plan.maps) or 'none'} for {', '.join(plan.target.labels(plan.model.classes))}"
    if plan.channels == "keep":
        yield "  of each channel", _of_each_channel(plan)
    for planned in plan.fits:
        yield "fitted before", f"{planned.title}, on {len(planned.images)} images of the cohort"
    yield "forward passes", str(cost.forward_passes)
    yield "backward passes", str(cost.backward_passes)
    yield "stored", f"{decimal(cost.bytes_stored)} before compression, {cost.objects} objects"
    yield "memory a worker", f"{cost.memory_per_worker / 2**30:.1f} GiB"
    yield "time", f"{_time(cost.hours)} on {cost.workers} worker{'s' * (cost.workers != 1)} at this machine's pace"
    if plan.evaluated:
        yield "  to evaluate", f"{_time(cost.evaluating_hours)}, by {', '.join(one.title for one in plan.evaluated)}"
    if plan.results:
        yield "results", ", ".join(planned.title for planned in plan.results)
    yield "identifiers", prepared.identifiers
    unread = prepared.unread_labels
    for label in unread[:_REFUSED_SHOWN]:
        yield "no class", str(label)
    if len(unread) > _REFUSED_SHOWN:
        yield "", f"and {len(unread) - _REFUSED_SHOWN} labels more that name no class"
    for entry in refused[:_REFUSED_SHOWN]:
        yield "quarantined", f"{entry.id}: {entry.reason or ''}"


def _of_each_channel(plan: "Plan") -> str:
    from models.explainers.base import ChannelExplainer

    known = {one.title: isinstance(one, ChannelExplainer) for one in plan.explainers if one.title in plan.maps}
    kept, left = ([title for title, is_kept in known.items() if is_kept == wanted] for wanted in (True, False))
    return ", ".join(kept) + (f"; {', '.join(left)} look at all channels at once" if left else "")


def _folds(found: "Disagreement") -> str:
    told = f"{found.folds}, whose answers about {found.images} images lie up to {found.apart:.2g} apart"
    return told if found.divided is None else f"{told}; {found.divided} of them are given different classes"


def _offered(prepared: "Prepared") -> str:
    from models.explainers import EXPLAINERS

    return "every explainer" if len(prepared.offered) == len(EXPLAINERS.kinds) else ", ".join(prepared.offered)


def _subjects(prepared: "Prepared") -> str:
    named = {entry.subject for entry in prepared.entries if entry.subject}
    alone = sum(entry.subject is None and not entry.withdrawn for entry in prepared.entries)
    if not named:
        return "none are named: every image counts as a subject of its own"
    if len(named) == 1 and not alone and len(prepared.entries) > 1:
        return "1: no interval can be given; do all files have the same PatientID?"
    return f"{len(named)}" + (f", and {alone} images without one, each a subject of its own" if alone else "")


def _print_rows(rows: Rows) -> None:
    from rich.table import Table

    _print(Table.grid(padding=(0, 2)), rows)


def _print(table: "Table", rows: Iterable[tuple[str, ...]]) -> None:
    """Print a table, of the terminal's width where there is one."""
    from rich.console import Console
    from rich.text import Text

    for row in rows:
        table.add_row(*(Text(plain(text)) for text in row))
    console = Console(width=None if sys.stdout.isatty() else _ENDLESS)
    with console.capture() as captured:
        console.print(table)
    for line in captured.get().splitlines():
        click.echo(line.rstrip())


def _time(hours: float) -> str:
    return f"{timedelta(seconds=round(3600 * hours))} h"
