"""Which metrics and kinds of uncertainty an output can have, and what each will store."""

from collections.abc import Sequence
from typing import Any

import torch

from models.engine import Engine
from models.explainers.control_centre import ControlCentre
from models.explainers.control_random import ControlRandom
from models.metrics import Metric, MetricConfig, evaluate, standard
from models.uncertainty import Uncertainty
from tasks.plan import manifest
from tasks.plan.plan import Measure, Plan
from tasks.prepare.replan import with_measures
from tasks.storage.location import Location
from tasks.store.commit import delivered
from tasks.work.engines import engine_of
from tasks.work.other_outputs import check_comparable


def measure(
    metrics: Sequence[MetricConfig],
    engine: Engine,
    plan: Plan,
    others: tuple[Location, ...] = (),
    others_digest: str = "",
) -> tuple[Measure, ...]:
    """Try metrics on maps of noise, and note what each will store; the explainers are not asked, which would take long.

    Raises
    ------
    ValueError
        If one has no meaning on the network, or lacks masks or other maps to compare with.
    """
    if not metrics:
        return ()
    shape = (2, plan.model.channels, *plan.model.input_shape)
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ids = ["noise-0", "noise-1"]
    masks = torch.ones(2, *plan.model.input_shape, dtype=torch.bool) if plan.masks else None
    trial = Engine(engine.network, [ControlRandom(), ControlCentre()], engine.target, engine.batch_size)
    maps = trial.explain(noise, ids, masks).maps.cpu()
    spacing = torch.ones(2, plan.model.spatial_dims)
    scores = evaluate(trial, metrics, noise, ids, maps, masks, spacing, maps[None] if others else None)
    return tuple(
        Measure(
            metric=metric,
            companions=tuple(score.companions),
            curves=tuple(score.curves),
            points=score.points,
            others=others if metric.needs_others else (),
            others_digest=others_digest if metric.needs_others else "",
        )
        for metric, score in zip(metrics, scores, strict=True)
    )


def add_metrics(output: Location, metrics: Sequence[MetricConfig], others: Sequence[Location] = ()) -> Plan:
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
    ValueError
        If it is not finished, holds no maps, one of the metrics cannot be computed, or another output holds something
        else.
    """
    plan = Plan.read(output)
    if not plan.maps:
        raise ValueError(f"output {output} holds no maps to judge: add explainers with `run --extend`")
    left = len(plan.shards) - len(delivered(output, plan))
    if left:
        raise ValueError(f"{left} of {len(plan.shards)} shards of {output} are not delivered: finish the run first")
    entries = manifest.read(output)
    digest = " ".join(check_comparable(plan, entries, other) for other in others)
    engine = engine_of(output, plan)
    asked = tuple(metrics) or tuple(
        metric for metric in standard() if _applies(metric, engine, plan, compares=bool(others))
    )
    new = measure(asked, engine, plan, tuple(others), digest)
    before, plan = plan, plan.model_copy(update={"metrics": with_measures(plan.metrics, new)})
    if plan != before:
        plan.write(output, entries)
    return plan


def _applies(metric: Metric, engine: Engine, plan: Plan, *, compares: bool) -> bool:
    if metric.needs_others != compares or metric.only_named or (metric.needs_masks and not plan.masks):
        return False
    try:
        metric.check(engine.network)
    except ValueError:
        return False
    return True


def check_uncertainty(uncertainty: Sequence[Uncertainty], engine: Engine, plan: Plan) -> tuple[Any, ...]:
    """Check that the network can have such members; return what was asked for with the digests of its files.

    Raises
    ------
    ValueError
        If it cannot, or a file or an explainer that is named is not there.
    """
    for one in uncertainty:
        one.check(engine.network)
        if unknown := [name for name in one.explainers or () if name not in plan.maps]:
            raise ValueError(f"{one.title}: there are no maps by {', '.join(unknown)}; the explainers are {plan.maps}")
        one.members(engine.network)  # complains of files that do not fit
    return tuple(one.pinned() for one in uncertainty)
