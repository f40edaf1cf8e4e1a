"""Before a run: everything that can be checked is checked, and the plan is drawn up."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from models.engine import Engine
from models.explainers import ExplainerConfig
from models.network import build
from models.preprocessing import Preprocessing
from models.targets import Region, TargetConfig
from tasks.cohort import CohortConfig, survey
from tasks.cost import Cost, estimate
from tasks.images import read_background
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

    def engine(background: Tensor | None) -> Engine:
        return Engine(network, explainers, target, batch_size, background)

    engine(torch.zeros(1, model.channels, *model.input_shape))  # complains before the cohort is read, which can be long
    preprocessing = Preprocessing(cohort.preprocessing)
    entries = survey(cohort, model.spatial_dims, progress)
    plan = make_plan(
        entries,
        cohort=cohort,
        model=model,
        weights_digest=hashlib.sha256(weights).hexdigest(),
        explainers=explainers,
        target=target,
        batch_size=batch_size,
        segments=network.segments,
    )
    if isinstance(target, Region) and target.of == "mask" and not plan.masks:
        raise ValueError(
            "target `region` of the mask: no image of the cohort has a mask; name masks in the column `mask` of a "
            "manifest, or explain the predicted region"
        )
    plan, background = _with_background(plan, entries, preprocessing)
    cost = estimate(plan, engine(background), workers=workers, threads=threads, memory_limit=memory_limit)
    return Prepared(plan, entries, cost)


def _with_background(plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing) -> tuple[Plan, Tensor | None]:
    """Read the background and leave out of the plan what cannot be read, so that every worker has the same."""
    ids, background = read_background(plan, entries, preprocessing)
    if plan.background and not ids:
        raise ValueError(
            f"cohort.background: none of {len(plan.background)} images, such as {plan.background[0]!r}, can be read, "
            "but an explainer compares with them: mend the files or the preprocessing, or raise the number"
        )
    return plan.model_copy(update={"background": ids}), background
