"""Before a run: everything that can be checked is checked, and the plan is drawn up."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS
from models.fits import FITS
from models.loading import Files, build
from models.network import Network
from models.precision import check_instructions
from models.targets import Region
from models.trial import told
from tasks.cohort.config import CohortConfig
from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import known_files
from tasks.cohort.pseudonyms import Key
from tasks.cohort.reading import Window
from tasks.cohort.selection import ALL, Selection
from tasks.cohort.slides.opening import check_installed
from tasks.cohort.sources import Find, Sources
from tasks.cohort.survey import survey
from tasks.plan import manifest
from tasks.plan.labels import UnreadLabel, unread_labels
from tasks.plan.making import make_plan
from tasks.plan.plan import Lasting, Plan, begun
from tasks.plan.planned import PlannedFit
from tasks.plan.recipe import ModelConfig, Recipe
from tasks.prepare.cost import Cost, estimate
from tasks.prepare.measures import check_measures
from tasks.prepare.metrics import plan_metrics, plan_results, plan_uncertainty
from tasks.prepare.place import HERE, Place
from tasks.prepare.precision import check_deviation
from tasks.prepare.regions import check_atlases
from tasks.prepare.replan import Changes, replan, without_withdrawn
from tasks.prepare.trial import Disagreement, disagreement, read_some, try_network
from tasks.storage.location import Location
from tasks.store.commit import Commit, stamps
from tasks.store.template import check_names
from tasks.work.batches import device
from tasks.work.failures import check_survey
from tasks.work.fit import fit_digest
from tasks.work.images import read_inputs, stack
from tasks.work.pending import check_ours


@dataclass(frozen=True)
class Prepared:
    """A plan that can be carried out, its images, and what it will cost.

    Attributes
    ----------
    sources
        Where the images lie, which nothing writes down.
    changes
        What is different from the run that the output holds; None if it holds none.
    form
        The form of the network, in words.
    offered
        Names of the explainers that the form offers.
    folds
        How far the folds disagree, where the model has several; None where they were not tried on images.
    is_written
        Whether the output holds just this plan and these images already.
    """

    plan: Plan
    entries: Sequence[Entry]
    sources: Sources
    cost: Cost
    form: str
    offered: tuple[str, ...]
    folds: Disagreement | None = None
    changes: Changes | None = None
    is_written: bool = False

    @property
    def unread_labels(self) -> list[UnreadLabel]:
        """The labels that name no class of the model, if it has classes."""
        model = self.plan.model
        if model.activation == "identity":
            return []
        exclusive, concepts = model.activation == "softmax", self.plan.concepts
        return unread_labels(self.entries, model.classes, self.sources, exclusive=exclusive, concepts=concepts)

    @property
    def identifiers(self) -> str:
        """Say what ids and subjects are in the output, for whoever starts the run."""
        return self.plan.key.about if self.plan.cohort.identifiers == "pseudonymous" else "as the cohort gives them"


@dataclass(frozen=True)
class Before:
    """The state of an output before a run: its plan and images, and what of them is delivered."""

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
        if overwrite:
            lasting = Lasting.read(output)
            return cls(withdrawn=lasting.withdrawn, key=lasting.key if lasting.withdrawn else None)
        plan = Plan.read(output)
        return cls(plan, manifest.load(output), Commit.read(output, stamps(output)), plan.withdrawn, plan.key)


NOTHING = Before()


def prepare(
    recipe: Recipe,
    place: Place = HERE,
    before: Before = NOTHING,
    *,
    extend: bool = False,
    only: Selection = ALL,
    progress: Callable[[int, int], None] = lambda done, of: None,
) -> Prepared:
    """Build the network, check the recipe against it, survey the cohort, and plan.

    Nothing is written.

    Parameters
    ----------
    place
        Where the work will be done.
    before
        What the output holds; the plan goes on from there.
    extend
        Whether explainers may be added to it.
    only
        Which images the run is about.

    Raises
    ------
    ConfigurationError
        If the recipe cannot be carried out, with the field, what was found and what to do.
    """
    cohort, model = recipe.cohort, recipe.model
    if cohort.slides:
        check_installed()
    key = before.key or Key.make()
    key.pseudonym("")  # complains if it is not at hand
    files = _read(model)
    if not place.elsewhere:
        check_instructions(recipe.precision, device())
    network = build(model, files, device(), recipe.precision, cohort.record)
    explainers = tuple(explainer.pinned() for explainer in recipe.explainers)
    recipe = recipe.model_copy(update={"model": model.pinned(files), "explainers": explainers})

    def engine(fitted: Mapping[str, Tensor]) -> Engine:
        keeps = recipe.channels == "keep"
        return Engine(network, recipe.explainers, recipe.target, recipe.batch_size, fitted, keeps_channels=keeps)

    engine({})  # complains before the cohort is read, which can be long
    cohort.make_preprocessing()  # complains before the cohort is read
    surveyed = survey(cohort, model.spatial_dims, key, progress, known_files(before.entries), only)
    sources = surveyed.sources
    entries: Sequence[Entry] = without_withdrawn(surveyed.entries, before.withdrawn)
    if not entries:
        raise ConfigurationError("cohort.source: no image of the cohort is selected, or all such were withdrawn")
    _check_window(cohort, entries)
    plan = make_plan(recipe, entries, network, key=key)
    _check_region(plan)
    fits, fitted = _plan_fits(recipe, plan, entries, network, sources)
    plan = plan.model_copy(update={"fits": fits})
    images = read_some(plan, entries, sources) if before.plan is None else None
    if images is not None:
        try_network(network, files, *images)
    folds = disagreement(network, *images) if images is not None else None
    if recipe.precision == "bf16":
        plan = plan.model_copy(update={"deviation": check_deviation(plan, entries, lambda: engine(fitted), sources)})
    plan = _with_later_stages(plan, recipe, network)
    check_names(plan)
    check_atlases(plan, entries, sources)
    kept = before.plan.results if before.plan else ()
    check_measures(cohort.measures, entries, [planned.result for planned in (*kept, *plan.results)])
    with told("one batch was tried, and failed"):
        cost = estimate(plan, entries, engine(fitted), place, images)
    offered = tuple(name for name, kind in EXPLAINERS.kinds.items() if kind.requires <= network.capabilities)
    if before.plan is None:
        check_survey(plan, entries)
        plan = plan.model_copy(update={"withdrawn": before.withdrawn})
        return Prepared(plan, entries, sources, cost, network.form, offered, folds)
    plan, entries, changes = replan(
        before.plan,
        before.entries,
        before.commits,
        plan,
        entries,
        network,
        extend=extend,
        unselected=surveyed.unselected,
    )
    is_written = (plan, entries) == (before.plan, before.entries)
    return Prepared(plan, entries, sources, cost, network.form, offered, folds, changes, is_written)


def _check_window(cohort: CohortConfig, entries: Sequence[Entry]) -> None:
    """Check that a fixed window is of all images, since only DICOM is windowed."""
    if not isinstance(cohort.window, Window):
        return
    if others := [entry for entry in entries if not entry.reason and entry.format != "dicom"]:
        low, high = (cohort.window.center + sign * cohort.window.width / 2 for sign in (-1, 1))
        raise ConfigurationError(
            f"cohort.window is for DICOM, and {len(others)} of {len(entries)} images are of another format, such as "
            f"{others[0].id!r}, which would stay as they are: leave it out, and clip all by cohort.preprocessing, such "
            f"as `{{_target_: monai.transforms.ScaleIntensityRange, a_min: {low:g}, a_max: {high:g}, b_min: {low:g}, "
            f"b_max: {high:g}, clip: true}}`"
        )


def _read(model: ModelConfig) -> Files:
    try:
        return model.read()
    except (FileNotFoundError, IsADirectoryError):
        field, missing = next((one for one in model.files if not one[1].filesystem.isfile(one[1].path)), model.files[0])
        raise ConfigurationError(f"model.{field}: there is no file {missing}") from None


def _check_region(plan: Plan) -> None:
    if isinstance(plan.target, Region) and plan.target.of == "mask" and not plan.masks:
        raise ConfigurationError(
            "target `region` of the mask: no image of the cohort has a mask; name masks in the column `mask` of a "
            "cohort table, or explain the predicted region"
        )


def _with_later_stages(plan: Plan, recipe: Recipe, network: Network) -> Plan:
    """Plan what is computed of stored shards, and then the results, which may read it."""
    computed_of_shards = {
        "metrics": plan_metrics(recipe.metrics, network, plan),
        "uncertainty": plan_uncertainty(recipe.uncertainty, network, plan),
    }
    plan = plan.model_copy(update=computed_of_shards)
    return plan.model_copy(update={"results": plan_results(recipe.results, network, plan)})


def _plan_fits(
    recipe: Recipe, plan: Plan, entries: Sequence[Entry], network: Network, find: Find
) -> tuple[tuple[PlannedFit, ...], dict[str, Tensor]]:
    """Choose the images that artefacts are computed from, and leave out those that cannot be read.

    Returns
    -------
    tuple
        What is planned, and the artefacts as they are for this process's trials.
    """
    kinds = {kind: None for explainer in recipe.explainers for kind in explainer.fits}
    preprocessing = recipe.cohort.make_preprocessing()
    planned: list[PlannedFit] = []
    fitted: dict[str, Tensor] = {}
    for kind in (FITS.adapter.validate_python({"name": kind.model_fields["name"].default}) for kind in kinds):
        chosen = set(kind.choose([entry for entry in entries if not entry.reason], recipe.cohort.background))
        asked = [entry for entry in entries if entry.id in chosen]
        inputs = read_inputs(plan, asked, preprocessing, find)
        if not inputs:
            raise ConfigurationError(
                f"cohort.background: none of {len(chosen)} images, such as {min(chosen, default='')!r}, can be read, "
                f"but an explainer uses the artefact {kind.title!r} that is computed from them: mend the files or the "
                "preprocessing, or raise the number"
            )
        read = [entry for entry in asked if entry.id in inputs]
        planned.append(
            PlannedFit(
                fit=kind,
                outputs=kind.declare(plan.frame, network, len(read)),
                images=tuple(inputs),
                digest=fit_digest(plan, kind, read),
            )
        )
        fitted |= kind.compute(network, stack(list(inputs.values())))
    return tuple(planned), fitted
