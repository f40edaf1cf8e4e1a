"""Verbs about an output that is there: how far it is, whether it is whole, and whose images it holds."""

import sys
from pathlib import Path

import click

from flows.cli.command import command
from flows.cli.options import CONFIG, ENDPOINT, JSON, load_config, output_at
from flows.cli.printing import json_of, print_damage, print_summary
from tasks.plain import plain


@command(epilog="Example: cohortlens status out/demo")
@click.argument("output")
@JSON
@ENDPOINT
def status(output: str, as_json: bool, endpoint_url: str | None) -> None:
    """Say how far the run at OUTPUT is, also while it is going on."""
    from tasks.work.finish import summarise

    with output_at(output, endpoint_url) as location:
        summary = summarise(location)
    click.echo(json_of(summary)) if as_json else print_summary(summary)


@command(epilog="Example: cohortlens verify out/demo")
@click.argument("output")
@click.option("--repair", is_flag=True, help="Compute again what is damaged.")
@JSON
@ENDPOINT
def verify(output: str, repair: bool, as_json: bool, endpoint_url: str | None) -> None:
    """Read everything at OUTPUT and hold it against its plan, manifest and commits."""
    from flows.progress import bar
    from tasks.storage.lease import lease
    from tasks.upkeep.verify import repair as repair_output
    from tasks.upkeep.verify import verify as verify_output

    with output_at(output, endpoint_url) as location:
        with bar("shards verified", "shards") as progress:
            found = left = verify_output(location, progress)
        if found and repair:
            if not as_json:
                print_damage(found)
            with lease(location, "repair"):
                repair_output(location, found)
            left = verify_output(location)
    if as_json:
        click.echo(json_of({"found": found, "left": left}))
    else:
        print_damage(left)
        if found and repair:
            click.echo(f"{len(found) - len(left)} of {len(found)} problems mended")
    sys.exit(1 if left else 0)


@command(epilog="Example: cohortlens withdraw out/demo --subject patient-17")
@click.argument("output")
@click.option("--subject", required=True, help="The subject, or the id of one image, as the manifest names it.")
@ENDPOINT
def withdraw(output: str, subject: str, endpoint_url: str | None) -> None:
    """Erase every trace of a subject at OUTPUT; later runs leave it out. The rest stays as it is, bit for bit."""
    from tasks.storage.lease import lease
    from tasks.upkeep.withdraw import withdraw as withdraw_subject

    with output_at(output, endpoint_url) as location, lease(location, "withdrawal"):
        erased = withdraw_subject(location, subject)
        click.echo(f"images erased     {len(erased.images)}, in rows {', '.join(map(str, erased.images))}")
        click.echo(f"objects rewritten {erased.objects}")
        done = "written anew" if erased.whole else "deleted: run again"
        click.echo(f"results and report {done}")
        if erased.fitted:
            click.echo(
                f"{erased.fitted} of the images were among those that an artefact was computed from: it is computed "
                "anew from the others, and maps that were made with it stay as they are"
            )


@command(epilog="Example: cohortlens which mine.yaml 3f2a90c1d4e5b677")
@CONFIG
@click.argument("ids", nargs=-1, required=True)
def which(config: Path, ids: tuple[str, ...]) -> None:
    """Say which files the images, or subjects, of some IDS at CONFIG's output are; for those who have the cohort."""
    from models.errors import ConfigurationError
    from tasks.cohort.survey import which as find
    from tasks.plan import manifest
    from tasks.plan.plan import Plan

    loaded = load_config(config)
    with output_at(loaded.output.url, loaded.output.endpoint_url):
        plan, entries = Plan.read(loaded.output), manifest.read(loaded.output)
    found = find(loaded.cohort, plan.key, ids, entries)
    for id in ids:
        for uri in found.get(id, ()):
            click.echo(f"{plain(id)}  {plain(uri)}")
    if missing := [id for id in ids if id not in found]:
        raise ConfigurationError(f"the cohort has no {', '.join(map(plain, missing))}: is it another output's?")
