"""Metrics, kinds of uncertainty and results that a plan can have, and what each stores."""

from collections.abc import Mapping, Sequence

from models.errors import ConfigurationError
from models.metrics import Metric, standard
from models.network import Network
from models.outputs import Frame, Output
from models.results import Result
from models.uncertainty import Uncertainty
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.plan.planned import PlannedMetric, PlannedResult, PlannedUncertainty
from tasks.prepare.replan import with_added
from tasks.storage.location import Location
from tasks.store.commit import delivered
from tasks.store.template import check_names
from tasks.work.engines import Engines
from tasks.work.other_outputs import check_comparable


def plan_metrics(
    metrics: Sequence[Metric],
    network: Network,
    plan: Plan,
    others: tuple[Location, ...] = (),
    others_digest: str = "",
) -> tuple[PlannedMetric, ...]:
    """Check metrics against the network and the cohort, and let them declare what they store.

    Raises
    ------
    ConfigurationError
        If one has no meaning on the network, or lacks maps, masks or other maps to compare with.
    """
    for metric in metrics:
        network.require(metric.title, metric.requires)
        metric.check(network)
        if not plan.maps:
            raise ConfigurationError(f"{metric.title}: there are no maps to evaluate: name explainers that make some")
        if metric.needs_masks and not plan.masks:
            raise ConfigurationError(f"{metric.title}: compares with masks, and the cohort has none")
        if metric.needs_others and not others:
            raise ConfigurationError(f"{metric.title}: compares with maps of other networks, and there are none")
    return tuple(
        PlannedMetric(
            metric=metric,
            outputs=metric.declare(plan.frame, network),
            others=others if metric.needs_others else (),
            others_digest=others_digest if metric.needs_others else "",
        )
        for metric in metrics
    )


def plan_uncertainty(
    uncertainty: Sequence[Uncertainty], network: Network, plan: Plan
) -> tuple[PlannedUncertainty, ...]:
    """Check that the network can have such members; digests of their files become part of the plan.

    Raises
    ------
    ConfigurationError
        If it cannot, or a file or an explainer that is named is not there.
    """
    for one in uncertainty:
        network.require(one.title, one.requires)
        one.check(network)
        if unknown := [name for name in one.explainers or () if name not in plan.maps]:
            raise ConfigurationError(
                f"{one.title}: there are no maps by {', '.join(unknown)}; the explainers are {plan.maps}"
            )
        members = one.members(network)  # complains of files that do not fit
        for explainer in plan.explainers:
            if explainer.title in (one.explainers or plan.maps):
                explainer.needs(members[-1].network)  # complains of a layer that a member lacks
    return tuple(PlannedUncertainty(uncertainty=one.pinned(), outputs=one.declare(plan.frame)) for one in uncertainty)


def plan_results(results: Sequence[Result], network: Network, plan: Plan) -> tuple[PlannedResult, ...]:
    """Check that the run stores what results are computed from, and let them declare what they store.

    Digests of their files become part of the plan. What is computed from other results comes after them.

    Raises
    ------
    ConfigurationError
        If it does not, one has no meaning on the network, or a file that is named is not there or not what is needed.
    """
    known = dict(plan.outputs)
    planned = []
    for result in sorted(results, key=lambda result: not set(result.reads()) <= plan.outputs.keys()):
        result.check(known)
        result.check_network(network)
        pinned = result.pinned()
        planned.append(PlannedResult(result=pinned, outputs=_declared(pinned, known, plan.frame)))
        known |= {output.name: output for output in planned[-1].outputs}
    return tuple(planned)


def _declared(result: Result, known: Mapping[str, Output], frame: Frame) -> tuple[Output, ...]:
    """Let a result declare its outputs; dimensions of what it is computed from are declared with them."""
    read = {axis.name: axis for name in result.reads() for axis in known[name].axes}

    def completed(output: Output) -> Output:
        own = {axis.name for axis in output.axes}
        taken = (read[dim] for dim in output.own_dims if dim in read.keys() - own - frame.sizes.keys())
        return output.model_copy(update={"axes": (*output.axes, *taken)})

    return tuple(completed(output) for output in result.declare(frame))


def add_metrics(output: Location, metrics: Sequence[Metric], engines: Engines, others: Sequence[Location] = ()) -> Plan:
    """Promise metrics of a finished output; return its new plan, which is written.

    Parameters
    ----------
    metrics
        None: all that need neither masks that are not there, nor other maps that are not given, nor to be named.
    others
        Outputs of other networks on the same images, for the metrics that compare with them.

    Raises
    ------
    FileNotFoundError
        If there is no run at `output`, or at one of the others.
    ConfigurationError
        If it is not finished, holds no maps, one of the metrics cannot be computed, or another output holds something
        else.
    """
    plan = Plan.read(output)
    if not plan.maps:
        raise ConfigurationError(f"output {output} holds no maps to evaluate: add explainers with `run --extend`")
    left = len(plan.shards) - len(delivered(output, plan))
    if left:
        raise ConfigurationError(
            f"{left} of {len(plan.shards)} shards of {output} are not delivered: finish the run first"
        )
    entries = manifest.load(output)
    digest = " ".join(check_comparable(plan, entries, other) for other in others)
    network = engines.network(plan)
    asked = tuple(metrics) or tuple(
        metric for metric in standard() if _applies(metric, network, plan, compares=bool(others))
    )
    new = plan_metrics(asked, network, plan, tuple(others), digest)
    before, plan = plan, plan.model_copy(update={"metrics": with_added(plan.metrics, new)})
    check_names(plan)
    if plan != before:
        plan.write(output, entries)
    return plan


def _applies(metric: Metric, network: Network, plan: Plan, *, compares: bool) -> bool:
    if metric.needs_others != compares or metric.only_named or (metric.needs_masks and not plan.masks):
        return False
    try:
        network.require(metric.title, metric.requires)
        metric.check(network)
    except ConfigurationError:
        return False
    return True
