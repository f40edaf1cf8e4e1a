"""The flow that evaluates the maps of a finished output."""

from collections.abc import Sequence
from typing import Annotated

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.cluster import PlaceConfig
from flows.config import described
from flows.run import carry_out
from models.metrics import MetricConfig
from tasks import run
from tasks.plan.plan import Plan
from tasks.plan.recipe import Named
from tasks.prepare.metrics import add_metrics
from tasks.storage.location import Location
from tasks.work.finish import Summary

_LOCAL = PlaceConfig()


@flow(name="evaluate-cohort", validate_parameters=True, persist_result=False)
def evaluate_cohort(
    output: Annotated[Location, described("The folder or S3 prefix of a finished output")],
    metrics: Annotated[
        tuple[Named[MetricConfig], ...],
        described(
            "None: all that the output has what it takes for, but for those that explain every image anew. With "
            "others: all that compare with them, but for those that need others of a certain kind"
        ),
    ] = (),
    others: Annotated[
        tuple[Location, ...], described("Outputs of other networks on the same images, to compare with")
    ] = (),
    compute: Annotated[PlaceConfig, described("Where the work is done")] = _LOCAL,
    output_url: Annotated[str | None, described("Where a browser finds the output's folder")] = None,
) -> Summary:
    """Evaluate the maps of a finished output by metrics, beside those that it holds already."""
    return carry_out(output, compute, lambda _: (_add_metrics(output, metrics, others), None), output_url)


@task(name="add metrics", cache_policy=NO_CACHE, persist_result=False)
def _add_metrics(output: Location, metrics: Sequence[MetricConfig], others: Sequence[Location]) -> Plan:
    return add_metrics(output, metrics, run.ENGINES, others)
