"""The verb that evaluates a finished output."""

import click

from flows.cli.command import command
from flows.cli.options import ENDPOINT, location_of, output_at
from flows.cli.prefect import shown_in_prefect


@command(epilog="Example: cohortlens evaluate out/demo --metric deletion --metric hit_rate")
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
    from flows import forked
    from flows.server import prefect_server

    with output_at(output, endpoint_url) as location:
        from flows.config import named_metrics
        from tasks.plan.plan import Plan

        named = named_metrics(metrics)
        compared = tuple(location_of("--other", other, endpoint_url) for other in others)
        Plan.read(location)  # complains before a server is started
    with output_at(output, endpoint_url), prefect_server() as server_url:
        forked.begin()
        from flows.cluster import PlaceConfig
        from flows.evaluate import evaluate_cohort

        with shown_in_prefect(server_url(), location):
            evaluate_cohort(location, named, compared, PlaceConfig(workers=workers))
        click.echo(f"report        {location / 'report/index.html'}")
