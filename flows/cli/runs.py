"""Verbs that plan and run a configuration."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from flows.cli.command import command
from flows.cli.options import CONFIG, JSON, MARKER, load_config, run_options, temporary_home
from flows.cli.prefect import shown_in_prefect
from flows.cli.printing import json_of_plan, print_plan, print_summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.config import RunConfig
    from tasks.cohort.selection import Selection
    from tasks.work.finish import Summary


@command(epilog="Example: cohortlens demo --output out/demo")
@click.option("--output", default="out/demo", show_default=True, help="Folder of the output.")
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="2: slices; 3: volumes.")
@click.option("--images", type=click.IntRange(4), default=200, show_default=True, help="Size of the cohort.")
@MARKER
def demo(output: str, dims: int, images: int, marker: bool) -> None:
    """Make the demo cohort (real anatomy, planted lesions) and explain it.

    With a marker, the network is one that was trained to see it: its report should tell that it looks at no lesion.
    """
    from flows import forked
    from flows.server import prefect_server

    with prefect_server() as server_url:
        forked.begin_here()
        from flows.demo import demo_config

        config = demo_config(output, spatial_dims=dims, images=images, marker=marker)
        _finish_run(config, _run(config, server_url))


@command(epilog="Example: cohortlens plan mine.yaml")
@CONFIG
@JSON
@run_options
def plan(config: Path, as_json: bool, extend: bool, overwrite: bool, only: "Callable[[], Selection]") -> None:
    """Say what CONFIG would run and what that would cost; write nothing.

    CONFIG is a YAML file of cohort, model, explainers and output: README.md has one, docs/ says what else it may hold.
    """
    from flows.server import keep_inside

    loaded = load_config(config)
    with temporary_home() as home:
        keep_inside(home)
        from flows.explain import prepare_run

        prepared = prepare_run(loaded, extend=extend, overwrite=overwrite, only=only())
    click.echo(json_of_plan(prepared)) if as_json else print_plan(prepared)


@command(epilog="Example: cohortlens run mine.yaml")
@CONFIG
@click.option(
    "--first",
    type=click.IntRange(1),
    help="Look at this many images, spread over the cohort, in a throw-away folder, and open its report.",
)
@click.option("--open/--no-open", "opens", default=True, help="Whether --first opens the report in a browser.")
@run_options
def run(
    config: Path, first: int | None, opens: bool, extend: bool, overwrite: bool, only: "Callable[[], Selection]"
) -> None:
    """Explain the cohort of CONFIG. If its output is there, only what is new, changed or missing is done.

    CONFIG is a YAML file of cohort, model, explainers and output: README.md has one, docs/ says what else it may hold.
    """
    from flows import forked
    from flows.server import prefect_server
    from flows.yaml import read_yaml

    if first is not None:
        if extend or overwrite:
            raise click.UsageError("--first leaves the output as it is: run without --extend and --overwrite")
        _look(load_config(config), only().model_copy(update={"first": first}), opens)
        return
    content = read_yaml(config.read_bytes(), str(config))
    with prefect_server() as server_url:
        if not _names_a_cluster(content):
            forked.begin_here()
        loaded = load_config(config)
        summary = _run(loaded, server_url, extend=extend, overwrite=overwrite, only=only())
    _finish_run(loaded, summary)


@command(epilog="Example: cohortlens schema > cohortlens.schema.json")
def schema() -> None:
    """Print the JSON schema of a CONFIG, for editors that check and complete YAML."""
    import json

    from flows.schema import schema as json_schema

    click.echo(json.dumps(json_schema(), indent=1))


def _names_a_cluster(content: Any) -> bool:
    """Tell of a configuration that is not checked yet whether its workers are others than this machine's."""
    compute = content.get("compute") if isinstance(content, dict) else None
    return isinstance(compute, dict) and bool(compute.get("scheduler") or compute.get("cluster"))


def _run(config: "RunConfig", server_url: "Callable[[], str]", **how: Any) -> "Summary":
    from flows.explain import explain_cohort
    from flows.run import done

    with shown_in_prefect(server_url(), config.output):
        return explain_cohort(config, **how)
    return done[config.output.url]


def _look(config: "RunConfig", only: "Selection", opens: bool) -> None:
    import webbrowser

    from flows.server import keep_inside
    from tasks.report import NAME

    with temporary_home() as home:
        keep_inside(home)
        from flows.first import explain_first

        looked, summary = explain_first(config, only)
    folder = Path(looked.output.path)
    click.echo(
        f"A look at {summary.images} images. Nothing was written to {config.output}; delete {folder} afterwards."
    )
    if opens:
        webbrowser.open((folder / NAME).as_uri())
    _finish_run(looked, summary)


def _finish_run(config: "RunConfig", summary: "Summary") -> None:
    from tasks import report
    from tasks.store.objects import NAME

    output = config.output
    options = output.storage_options
    endpoint = options.get("endpoint_url")
    extra = f", storage_options={{'endpoint_url': {endpoint!r}}}" if endpoint else ""
    print_summary(summary, store=output / NAME, report=output / report.NAME)
    click.echo(f'\n    import xarray as xr\n    ds = xr.open_zarr("{output / NAME}"{extra})\n    print(ds)\n')
    if summary.not_explained > config.cohort.allowed_failures:
        click.echo(
            f"{summary.not_explained:.2%} of the images are quarantined or failed; "
            f"cohort.allowed_failures is {config.cohort.allowed_failures:.2%}",
            err=True,
        )
        sys.exit(1)
