"""Before a run: everything that can be checked is checked, and the plan is drawn up."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from models.engine import Engine
from models.explainers import ExplainerConfig
from models.network import build
from models.preprocessing import Preprocessing
from models.targets import TargetConfig
from tasks.cohort import CohortConfig, survey
from tasks.cost import Cost, estimate
from tasks.manifest import Entry
from tasks.plan import ModelConfig, Plan, make_plan


@dataclass(frozen=True)
class Prepared:
    """A plan that can be carried out, its images, and what it will cost."""

    plan: Plan
    entries: Sequence[Entry]
    cost: Cost


def prepare(
    *,
    cohort: CohortConfig,
    model: ModelConfig,
    explainers: Sequence[ExplainerConfig],
    target: TargetConfig,
    batch_size: int,
    workers: int,
    threads: int,
    memory_limit: int | None,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Prepared:
    """Build the network, check explainers, target and preprocessing against it, survey the cohort, and plan.

    Nothing is written.

    Raises
    ------
    ValueError
        If the configuration cannot be carried out, with the field, what was found and what to do.
    """
    try:
        weights = model.weights.read()
    except FileNotFoundError:
        raise ValueError(f"model.weights: there is no file {model.weights}") from None
    network = build(model, weights)
    engine = Engine(network, explainers, target, batch_size)
    Preprocessing(cohort.preprocessing)
    entries = survey(cohort, model.spatial_dims, progress)
    plan = make_plan(
        entries,
        cohort=cohort,
        model=model,
        weights_digest=hashlib.sha256(weights).hexdigest(),
        explainers=explainers,
        target=target,
        batch_size=batch_size,
    )
    cost = estimate(plan, engine, workers=workers, threads=threads, memory_limit=memory_limit)
    return Prepared(plan, entries, cost)
