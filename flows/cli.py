"""The command line. Each verb imports what it needs, so that help does not wait."""

import functools
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from flows import logs
from flows.command import Commands
from flows.printing import json_of, json_of_plan, print_damage, print_plan, print_summary
from tasks.plain import plain

if TYPE_CHECKING:
    from flows.config import RunConfig
    from tasks.cohort.selection import Selection
    from tasks.storage.location import Location
    from tasks.work.finish import Summary

_CONFIG = click.Path(exists=True, dir_okay=False, path_type=Path)
_TIME = click.DateTime()

MARKER = click.option("--marker", is_flag=True, help="Burn a letter into a corner of all images with a lesion.")
JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead of text.")
ENDPOINT = click.option("--endpoint-url", help="The S3 server of OUTPUT, if it is not Amazon's.")


def run_options(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options that say how its CONFIG is run: extend, overwrite, and only which images."""

    @functools.wraps(command)
    def with_selection(**options: Any) -> None:
        from flows.config import make_selection

        named = {name: options.pop(name) for name in ("ids", "modality", "modified_after", "modified_before")}
        only = make_selection(**named)
        command(**options, only=only)

    for option in (
        click.option("--modified-before", type=_TIME, help="Only files stored before this time (UTC)."),
        click.option("--modified-after", type=_TIME, help="Only files stored at this time (UTC) or later."),
        click.option("--modality", multiple=True, help="Only images of this DICOM modality, such as CT; repeatable."),
        click.option("--id", "ids", multiple=True, help="Only this image or subject, by its pseudonym; repeatable."),
        click.option("--overwrite", is_flag=True, help="Delete a run that is there first."),
        click.option("--extend", is_flag=True, help="Add explainers to a run that is there; compute just those."),
    ):
        with_selection = option(with_selection)
    return with_selection


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]}, epilog="Example: cohortlens demo")
@click.version_option(package_name="cohortlens")
def main() -> None:
    """Explain every image of a medical imaging cohort.

    A run reads a cohort, explains each image on Dask workers and writes one Zarr store and a page of pictures.

    Exit codes: 0 done; 1 images were quarantined or failed beyond the allowed share, or damage was found; 2 bad usage
    or configuration; 3 ended early: too much failed, or storage or workers went away; 4 a fault of cohortlens itself,
    with its traceback; 130 interrupted.
    """


@main.command(epilog="Example: cohortlens demo --output out/demo")
@click.option("--output", default="out/demo", show_default=True, help="Folder of the output.")
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="2: slices; 3: volumes.")
@click.option("--images", type=click.IntRange(4), default=200, show_default=True, help="Size of the cohort.")
@MARKER
def demo(output: str, dims: int, images: int, marker: bool) -> None:
    """Make the demo cohort (real anatomy, planted lesions) and explain it.

    With a marker, the network is one that was trained to see it: its report should tell that it looks at no lesion.
    """
    from flows.server import prefect_server

    with prefect_server() as server_url:
        from flows.demo import demo_config

        config = demo_config(output, spatial_dims=dims, images=images, marker=marker)
        _finish_run(config, _run(config, server_url()))


@main.command(epilog="Example: cohortlens plan mine.yaml")
@click.argument("config", type=_CONFIG)
@JSON
@run_options
def plan(config: Path, as_json: bool, extend: bool, overwrite: bool, only: "Selection") -> None:
    """Say what CONFIG would run and what that would cost; write nothing.

    CONFIG is a YAML file of cohort, model, explainers and output: README.md has one, docs/ says what else it may hold.
    """
    from flows.server import keep_inside

    loaded = _load(config)
    with _temporary_home() as home:
        keep_inside(home)
        from flows.explain import prepare_run

        prepared = prepare_run(loaded, extend=extend, overwrite=overwrite, only=only)
    click.echo(json_of_plan(prepared)) if as_json else print_plan(prepared)


@main.command(epilog="Example: cohortlens run mine.yaml")
@click.argument("config", type=_CONFIG)
@click.option(
    "--first",
    type=click.IntRange(1),
    help="Look at this many images, spread over the cohort, in a throw-away folder, and open its report.",
)
@click.option("--open/--no-open", "opens", default=True, help="Whether --first opens the report in a browser.")
@run_options
def run(config: Path, first: int | None, opens: bool, extend: bool, overwrite: bool, only: "Selection") -> None:
    """Explain the cohort of CONFIG. If its output is there, only what is new, changed or missing is done.

    CONFIG is a YAML file of cohort, model, explainers and output: README.md has one, docs/ says what else it may hold.
    """
    from flows.server import prefect_server

    loaded = _load(config)
    if first is not None:
        if extend or overwrite:
            raise click.UsageError("--first leaves the output as it is: run without --extend and --overwrite")
        _look(loaded, only.model_copy(update={"first": first}), opens)
        return
    with prefect_server() as server_url:
        summary = _run(loaded, server_url(), extend=extend, overwrite=overwrite, only=only)
    _finish_run(loaded, summary)


@main.command(epilog="Example: cohortlens evaluate out/demo --metric deletion --metric hit_rate")
@click.argument("output")
@click.option(
    "--metric", "metrics", multiple=True, help="A metric by name, repeatable; none: all that need no new maps."
)
@click.option("--other", "others", multiple=True, help="An output of another network on the same images; repeatable.")
@click.option("--workers", type=click.IntRange(1), help="Number of local workers; none: one a core, or one a GPU.")
@ENDPOINT
def evaluate(
    output: str, metrics: tuple[str, ...], others: tuple[str, ...], workers: int | None, endpoint_url: str | None
) -> None:
    """Evaluate the maps of a finished OUTPUT by metrics, and write its report anew with the evidence.

    With others, the metrics are those that compare maps between networks: repeatability (the same architecture,
    trained from other seeds), reproducibility (other architectures), network_agreement, label_randomisation (shuffled
    labels).
    """
    from flows.server import prefect_server

    with _output(output, endpoint_url) as location:
        from flows.config import named_metrics
        from tasks.plan.plan import Plan

        named = named_metrics(metrics)
        compared = tuple(_location("--other", other, endpoint_url) for other in others)
        Plan.read(location)  # complains before a server is started
    with _output(output, endpoint_url), prefect_server() as server_url:
        from flows.cluster import PlaceConfig
        from flows.evaluate import evaluate_cohort

        with _prefect(server_url(), location):
            evaluate_cohort(location, named, compared, PlaceConfig(workers=workers))
        click.echo(f"report        {location / 'report/index.html'}")


@main.command(epilog="Example: cohortlens status out/demo")
@click.argument("output")
@JSON
@ENDPOINT
def status(output: str, as_json: bool, endpoint_url: str | None) -> None:
    """Say how far the run at OUTPUT is, also while it is going on."""
    from tasks.work.finish import summarise

    with _output(output, endpoint_url) as location:
        summary = summarise(location)
    click.echo(json_of(summary)) if as_json else print_summary(summary)


@main.command(epilog="Example: cohortlens verify out/demo")
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

    with _output(output, endpoint_url) as location:
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


@main.command(epilog="Example: cohortlens withdraw out/demo --subject patient-17")
@click.argument("output")
@click.option("--subject", required=True, help="The subject, or the id of one image, as the manifest names it.")
@ENDPOINT
def withdraw(output: str, subject: str, endpoint_url: str | None) -> None:
    """Erase every trace of a subject at OUTPUT; later runs leave it out. The rest stays as it is, bit for bit."""
    from tasks.storage.lease import lease
    from tasks.upkeep.withdraw import withdraw as withdraw_subject

    with _output(output, endpoint_url) as location, lease(location, "withdrawal"):
        erased = withdraw_subject(location, subject)
        click.echo(f"images erased     {len(erased.images)}, in rows {', '.join(map(str, erased.images))}")
        click.echo(f"objects rewritten {erased.objects}")
        click.echo("manifest, coordinates and report written anew" if erased.whole else "report deleted: run again")
        if erased.fitted:
            click.echo(
                f"{erased.fitted} of the images were among those that an artefact was computed from: it is computed "
                "anew from the others, and maps that were made with it stay as they are"
            )


@main.command(epilog="Example: cohortlens which mine.yaml 3f2a90c1d4e5b677")
@click.argument("config", type=_CONFIG)
@click.argument("ids", nargs=-1, required=True)
def which(config: Path, ids: tuple[str, ...]) -> None:
    """Say which files the images, or subjects, of some IDS at CONFIG's output are; for those who have the cohort."""
    from models.errors import ConfigurationError
    from tasks.cohort.survey import which as find
    from tasks.plan import manifest
    from tasks.plan.plan import Plan

    loaded = _load(config)
    with _output(loaded.output.url, loaded.output.endpoint_url):
        plan, entries = Plan.read(loaded.output), manifest.read(loaded.output)
    found = find(loaded.cohort, plan.key, ids, entries)
    for id in ids:
        for uri in found.get(id, ()):
            click.echo(f"{plain(id)}  {plain(uri)}")
    if missing := [id for id in ids if id not in found]:
        raise ConfigurationError(f"the cohort has no {', '.join(map(plain, missing))}: is it another output's?")


@main.command(epilog="Example: cohortlens schema > cohortlens.schema.json")
def schema() -> None:
    """Print the JSON schema of a CONFIG, for editors that check and complete YAML."""
    import json

    from flows.schema import schema as json_schema

    click.echo(json.dumps(json_schema(), indent=1))


@main.command(epilog="Example: cohortlens train --dims 2 --output out/weights")
@click.option(
    "--network",
    type=click.Choice(["attention_gated", "prototypes", "bcos"]),
    default="attention_gated",
    show_default=True,
    help="The others explain themselves, by prototypes or by weights that the image chooses.",
)
@click.option("--dims", type=click.IntRange(2, 3), default=2, show_default=True, help="2: slices; 3: volumes.")
@click.option("--images", type=click.IntRange(16), default=4000, show_default=True, help="Training images.")
@click.option("--held-out", type=click.IntRange(16), default=1000, show_default=True, help="Images for the AUC.")
@click.option("--epochs", type=click.IntRange(1), default=8, show_default=True)
@click.option("--learning-rate", type=click.FloatRange(0, min_open=True), default=3e-3, show_default=True)
@click.option("--shuffled", is_flag=True, help="Give each training image the label of another.")
@MARKER
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/weights"), show_default=True)
def train(
    network: Literal["attention_gated", "prototypes", "bcos"],
    dims: int,
    images: int,
    held_out: int,
    epochs: int,
    learning_rate: float,
    shuffled: bool,
    marker: bool,
    output: Path,
) -> None:
    """Train a reference network on the demo cohort's generator; write its weights and recipe.

    With shuffled labels there is nothing to learn but the images by heart, with a marker there is a shortcut: two
    networks whose maps should, and two cohorts whose reports must, tell.
    """
    from flows.server import prefect_server

    with prefect_server() as server_url:
        server_url()
        from flows.train import train_reference
        from tasks.demo.training import TrainingConfig

        config = TrainingConfig(
            network=network,
            spatial_dims=dims,
            images=images,
            held_out=held_out,
            epochs=epochs,
            learning_rate=learning_rate,
            shuffled=shuffled,
            marker=marker,
        )
        click.echo(train_reference(config, output))


@main.command("train-autoencoder", epilog="Example: cohortlens train-autoencoder --output out/weights")
@click.option("--images", type=click.IntRange(16), default=1000, show_default=True, help="Training images.")
@click.option("--held-out", type=click.IntRange(16), default=200, show_default=True, help="Images for the error.")
@click.option("--epochs", type=click.IntRange(1), default=24, show_default=True)
@click.option("--output", type=click.Path(path_type=Path), default=Path("out/weights"), show_default=True)
def train_autoencoder(images: int, held_out: int, epochs: int, output: Path) -> None:
    """Train the autoencoder of counterfactuals on slices of the demo cohort; write its weights and recipe."""
    from flows.server import prefect_server

    with prefect_server() as server_url:
        server_url()
        from flows.train import train_reference_autoencoder
        from tasks.demo.autoencoder import AutoencoderTraining

        config = AutoencoderTraining(images=images, held_out=held_out, epochs=epochs)
        click.echo(train_reference_autoencoder(config, output))


def _load(path: Path) -> "RunConfig":
    from flows.config import load

    return load(path)


def _run(config: "RunConfig", server_url: str, **how: Any) -> "Summary":
    from flows.explain import explain_cohort
    from flows.run import done

    with _prefect(server_url, config.output):
        return explain_cohort(config, **how)
    return done[config.output.url]


def _look(config: "RunConfig", only: "Selection", opens: bool) -> None:
    import webbrowser

    from flows.server import keep_inside
    from tasks.report import NAME

    with _temporary_home() as home:
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


@contextmanager
def _prefect(server_url: str, output: "Location") -> Iterator[None]:
    """Say where Prefect shows a run, and hand it the last of the run's log; a run that is done may end without it."""
    import httpx
    from prefect.logging.handlers import APILogHandler

    from flows.errors import Stopped
    from flows.run import done
    from flows.server import password_file

    secret = password_file(server_url)
    asks = f", with the password in {secret}" if secret.exists() else ""
    click.echo(f"Prefect: {server_url.removesuffix('/api')}{asks}", err=True)
    logs.set_up_prefect()
    try:
        yield
    except httpx.HTTPError as error:
        if output.url not in done:
            raise Stopped(
                f"Prefect's server does not answer ({type(error).__name__}): start it, and run again to go on"
            ) from error
        click.echo("the run is done; but Prefect's server, which was away when it ended, does not know", err=True)
    finally:
        APILogHandler().flush()


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


@contextmanager
def _output(url: str, endpoint_url: str | None) -> Iterator["Location"]:
    location = _location("OUTPUT", url, endpoint_url)
    try:
        yield location
    except FileNotFoundError as error:
        missing = error.filename or error
        raise click.UsageError(f"there is no run at {url}: no {missing}; `cohortlens run` makes it") from error


def _location(what: str, url: str, endpoint_url: str | None) -> "Location":
    from pydantic import ValidationError

    from tasks.storage.location import Location

    try:
        return Location(url=url, endpoint_url=endpoint_url)
    except ValidationError as error:
        raise click.UsageError(f"{what}: {error.errors()[0]['msg']}") from error


@contextmanager
def _temporary_home() -> Iterator[Path]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


if __name__ == "__main__":
    main()
