"""Before a run: everything that can be checked is checked, and the plan is drawn up."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.engine import Engine
from models.explainers import ExplainerConfig
from models.metrics import MetricConfig
from models.network import Precision, build
from models.preprocessing import Preprocessing
from models.targets import Region, TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry, known_files
from tasks.cohort.pseudonyms import Key
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.sources import Find, Sources
from tasks.cohort.survey import survey
from tasks.plan import manifest
from tasks.plan.ensemble import UncertaintyConfig
from tasks.plan.plan import ModelConfig, Plan, begun, make_plan
from tasks.prepare.cost import Cost, estimate
from tasks.prepare.metrics import check_uncertainty, measure
from tasks.prepare.precision import check_agreement, check_instructions
from tasks.prepare.replan import Changes, replan, without_withdrawn
from tasks.storage.location import Location
from tasks.store.commit import Commit, stamps
from tasks.work.batches import device
from tasks.work.failures import check_survey
from tasks.work.images import Misfit, read_background, read_images
from tasks.work.pending import check_ours

_TRIED = 3


@dataclass(frozen=True)
class Prepared:
    """A plan that can be carried out, its images, and what it will cost.

    Attributes
    ----------
    sources
        Where the images lie, which nothing writes down.
    changes
        What is different from the run that the output holds; None if it holds none.
    is_written
        Whether the output holds just this plan and these images already.
    """

    plan: Plan
    entries: Sequence[Entry]
    sources: Sources
    cost: Cost
    changes: Changes | None = None
    is_written: bool = False

    @property
    def identifiers(self) -> str:
        """What ids and subjects are in the output, for whoever starts the run."""
        return self.plan.key.about if self.plan.cohort.identifiers == "pseudonymous" else "as the cohort gives them"


@dataclass(frozen=True)
class Before:
    """What an output holds before a run: its plan and images, and what of them is delivered."""

    plan: Plan | None = None
    entries: Sequence[Entry] = ()
    commits: Mapping[int, Commit] = field(default_factory=dict)
    withdrawn: tuple[str, ...] = ()
    key: Key | None = None

    @classmethod
    def read(cls, output: Location, overwrite: bool) -> "Before":
        """Read an output; of one that will be overwritten, only what must not come back.

        Raises
        ------
        ValueError
            If it holds anything but a run that this version can go on with.
        """
        check_ours(output)
        if not begun(output):
            return cls()
        try:
            plan = Plan.read(output)
        except ValueError:
            if overwrite:
                return cls()
            raise
        if overwrite:
            return cls(withdrawn=plan.withdrawn, key=plan.key if plan.withdrawn else None)
        return cls(plan, manifest.read(output), Commit.read(output, stamps(output)), plan.withdrawn, plan.key)


def prepare(
    *,
    cohort: CohortConfig,
    model: ModelConfig,
    explainers: Sequence[ExplainerConfig],
    target: TargetConfig,
    metrics: Sequence[MetricConfig] = (),
    uncertainty: Sequence[UncertaintyConfig] = (),
    batch_size: int,
    precision: Precision = "fp32",
    elsewhere: bool = False,
    workers: int,
    threads: int,
    memory_limit: int | None,
    progress: Callable[[int, int], None] = lambda done, of: None,
    before: Before = Before(),
    extend: bool = False,
    only: Selection = ALL,
) -> Prepared:
    """Build the network, check explainers, target and preprocessing against it, survey the cohort, and plan.

    Nothing is written.

    Parameters
    ----------
    elsewhere
        Whether the workers may be of other machines, whose processors are unknown here.
    before
        What the output holds; the plan goes on from there.
    extend
        Whether explainers may be added to it.
    only
        Which images the run is about.

    Raises
    ------
    ValueError
        If the configuration cannot be carried out, with the field, what was found and what to do.
    """
    key = before.key or Key.make()
    key.pseudonym("")  # complains if it is not at hand
    try:
        weights = model.weights.read()
    except (FileNotFoundError, IsADirectoryError):
        raise ValueError(f"model.weights: there is no file {model.weights}") from None
    if not elsewhere:
        check_instructions(precision, device())
    network = build(model, weights, device(), precision)

    def engine(background: Tensor | None) -> Engine:
        return Engine(network, explainers, target, batch_size, background)

    engine(torch.zeros(1, model.channels, *model.input_shape))  # complains before the cohort is read, which can be long
    preprocessing = Preprocessing(cohort.preprocessing)
    surveyed = survey(cohort, model.spatial_dims, key, progress, known_files(before.entries), only)
    sources = surveyed.sources
    entries: Sequence[Entry] = without_withdrawn(surveyed.entries, before.withdrawn)
    if not entries:
        raise ValueError("cohort.source: no image of the cohort is selected, or all such were withdrawn")
    plan = make_plan(
        entries,
        cohort=cohort,
        model=model,
        weights_digest=hashlib.sha256(weights).hexdigest(),
        explainers=explainers,
        target=target,
        batch_size=batch_size,
        precision=precision,
        segments=network.segments,
        key=key,
    )
    if isinstance(target, Region) and target.of == "mask" and not plan.masks:
        raise ValueError(
            "target `region` of the mask: no image of the cohort has a mask; name masks in the column `mask` of a "
            "manifest, or explain the predicted region"
        )
    plan, background = _with_background(plan, entries, preprocessing, sources)
    if before.plan is None:
        _check_preprocessing(plan, entries, preprocessing, sources)
    asked = engine(background)
    if precision == "bf16":
        plan = plan.model_copy(
            update={"agreement": check_agreement(plan, entries, lambda: engine(background), sources)}
        )
    measures = {"metrics": measure(metrics, asked, plan), "uncertainty": check_uncertainty(uncertainty, asked, plan)}
    plan = plan.model_copy(update=measures)
    cost = estimate(plan, entries, engine(background), workers=workers, threads=threads, memory_limit=memory_limit)
    if before.plan is None:
        check_survey(plan, entries)
        return Prepared(plan.model_copy(update={"withdrawn": before.withdrawn}), entries, sources, cost)
    plan, entries, changes = replan(
        before.plan, before.entries, before.commits, plan, entries, extend=extend, unselected=surveyed.unselected
    )
    return Prepared(plan, entries, sources, cost, changes, (plan, entries) == (before.plan, before.entries))


def _check_preprocessing(plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing, find: Find) -> None:
    """Complain if none of some images fits what the network takes; one that does not is refused when its turn comes."""
    readable = [entry for entry in entries if not entry.reason]
    tried = read_images(plan, readable[:: max(1, len(readable) // _TRIED)][:_TRIED], preprocessing, find)
    if tried and all(isinstance(image, Misfit) for image in tried):
        raise ValueError(f"none of {len(tried)} images that were tried can be explained: {tried[0]}")


def _with_background(
    plan: Plan, entries: Sequence[Entry], preprocessing: Preprocessing, find: Find
) -> tuple[Plan, Tensor | None]:
    """Read the background and leave out of the plan what cannot be read, so that every worker has the same."""
    ids, background = read_background(plan, entries, preprocessing, find)
    if plan.background and not ids:
        raise ValueError(
            f"cohort.background: none of {len(plan.background)} images, such as {plan.background[0]!r}, can be read, "
            "but an explainer compares with them: mend the files or the preprocessing, or raise the number"
        )
    return plan.model_copy(update={"background": ids}), background
