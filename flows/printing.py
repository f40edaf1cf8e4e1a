"""The text that the command line prints. Text that may come from a cohort is made plain first."""

import json
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import click
from pydantic_core import to_jsonable_python

if TYPE_CHECKING:
    from tasks.prepare.prepare import Prepared
    from tasks.upkeep.verify import Damage
    from tasks.work.finish import Summary

_DAMAGE_SHOWN = 200
_REFUSED_SHOWN = 20


def plain(text: str) -> str:
    """Show what is no printable character as its escape sequence: a terminal obeys some of them."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


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
            "explainers": plan.explainers,
            "targets": plan.target.labels(plan.model.classes),
            "evaluated": [one.title for one in plan.evaluated],
            "results": [planned.title for planned in plan.results],
            "identifiers": prepared.identifiers,
            "changes": prepared.changes,
            "cost": prepared.cost,
        }
    )


def print_summary(summary: "Summary") -> None:
    click.echo(f"images        {summary.images}")
    for name in ("explained", "quarantined", "failed", "pending", "withdrawn", "vanished", "flagged"):
        click.echo(f"{name:13s} {getattr(summary, name)}")
    for flag, images in summary.flags.items():
        click.echo(f"  {flag}: {images}")
    click.echo(f"shards        {summary.shards_done} of {summary.shards}")
    for title, is_there in summary.computed.items():
        click.echo(f"{title:13s} {'computed' if is_there else 'not computed yet'}")
    click.echo(f"stored        {summary.bytes_stored / 1e6:.1f} MB in {summary.objects} objects")


def print_plan(prepared: "Prepared") -> None:
    from rich.filesize import decimal

    plan, cost = prepared.plan, prepared.cost
    refused = [entry for entry in prepared.entries if entry.reason]
    click.echo(f"images             {cost.images}, of them {len(refused)} quarantined")
    click.echo(f"subjects           {_subjects(prepared)}")
    if changes := prepared.changes:
        counts = (f"{getattr(changes, name)} {name}" for name in ("new", "changed", "vanished"))
        click.echo(
            f"there already      {', '.join(counts)}; explainers added: {', '.join(changes.explainers) or 'none'}"
        )
        if changes.vanished > len(prepared.entries) / 2:
            click.echo("                   most of it is not in the cohort any more: is it another's output?")
    click.echo(f"shards             {len(plan.shards)} of {plan.images_per_shard} images")
    click.echo(
        f"maps               {', '.join(plan.maps) or 'none'} for {', '.join(plan.target.labels(plan.model.classes))}"
    )
    for planned in plan.fits:
        click.echo(f"fitted before      {planned.title}, on {len(planned.images)} images of the cohort")
    click.echo(f"forward passes     {cost.forward_passes}")
    click.echo(f"backward passes    {cost.backward_passes}")
    click.echo(f"stored             {decimal(cost.bytes_stored)} before compression, {cost.objects} objects")
    click.echo(f"memory a worker    {cost.memory_per_worker / 2**30:.1f} GiB")
    click.echo(f"time               {_time(cost.hours)} on {cost.workers} workers at this machine's pace")
    if plan.evaluated:
        click.echo(
            f"  to evaluate      {_time(cost.evaluating_hours)}, by {', '.join(one.title for one in plan.evaluated)}"
        )
    if plan.results:
        click.echo(f"results            {', '.join(planned.title for planned in plan.results)}")
    click.echo(f"identifiers        {prepared.identifiers}")
    for unread in prepared.unread_labels[:_REFUSED_SHOWN]:
        click.echo(f"no class           {unread}")
    for entry in refused[:_REFUSED_SHOWN]:
        click.echo(f"quarantined        {plain(entry.id)}: {plain(entry.reason or '')}")


def _subjects(prepared: "Prepared") -> str:
    named = {entry.subject for entry in prepared.entries if entry.subject}
    alone = sum(entry.subject is None and not entry.withdrawn for entry in prepared.entries)
    if not named:
        return "none are named: every image counts as a subject of its own"
    if len(named) == 1 and not alone and len(prepared.entries) > 1:
        return "1: no interval can be given; do all files have the same PatientID?"
    return f"{len(named)}" + (f", and {alone} images without one, each a subject of its own" if alone else "")


def _time(hours: float) -> str:
    return f"{timedelta(seconds=round(3600 * hours))} h"


def print_damage(found: "list[Damage]") -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not found:
        click.echo("all as promised")
        return
    table = Table("what", "where", "problem", title=f"{len(found)} problems")
    for damage in found[:_DAMAGE_SHOWN]:
        table.add_row(*(Text(plain(text)) for text in (damage.what, damage.where, damage.problem)))
    Console(width=None if sys.stdout.isatty() else 200).print(table)
    if len(found) > _DAMAGE_SHOWN:
        click.echo(f"and {len(found) - _DAMAGE_SHOWN} more")
