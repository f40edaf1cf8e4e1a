"""The flow that judges the maps of a finished output."""

from collections.abc import Sequence

from prefect import flow, task
from prefect.cache_policies import NO_CACHE

from flows.cluster import ComputeConfig
from flows.config import MetricConfig, Named
from flows.run import carry_out
from tasks.finish import Summary
from tasks.metrics import add_metrics
from tasks.plan import Plan
from tasks.sources import Sources
from tasks.storage import Location

_LOCAL = ComputeConfig()


@flow(name="evaluate-cohort", validate_parameters=True, persist_result=False)
def evaluate_cohort(
    output: Location,
    metrics: tuple[Named[MetricConfig], ...] = (),
    others: tuple[Location, ...] = (),
    compute: ComputeConfig = _LOCAL,
    report_url: str | None = None,
) -> Summary:
    """Judge the maps of a finished output by metrics, beside those that it holds already.

    Parameters
    ----------
    metrics
        None: all that the output has what it takes for, but for those that explain every image anew. With others: all
        that compare with them.
    others
        Outputs of other networks on the same images, to compare with.
    report_url
        Where a browser finds the output's folder `report`.
    """
    return carry_out(output, compute, lambda _: (_add_metrics(output, metrics, others), Sources({})), report_url)


@task(name="add metrics", cache_policy=NO_CACHE, persist_result=False)
def _add_metrics(output: Location, metrics: Sequence[MetricConfig], others: Sequence[Location]) -> Plan:
    return add_metrics(output, metrics, others)
