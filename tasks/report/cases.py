"""The cases of the report: which images are shown, and what is shown of each."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, zip_longest

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from models.phrases import percent
from models.targets import NO_CLASS, Predicted
from tasks.plan.plan import Plan
from tasks.plan.predictions import Predictions
from tasks.report.agreement import Others, Pair, maps_of
from tasks.report.counterfactuals import counterfactuals_in_words, with_input
from tasks.report.evidence import CONTROLS
from tasks.report.fields import in_words as fields_in_words
from tasks.report.numbers import number
from tasks.report.pictures import Panel, Scale, case_panels
from tasks.report.shares import shares_in_words
from tasks.report.similar import Neighbour, Similar
from tasks.report.slides import is_slide
from tasks.report.words import evidence_in_words, findings, sentences
from tasks.store.flags import flags_in, raised

_SAMPLE_SEED = 20261123
_CASES = 6
_MOST_BYTES = 6 * 2**20
"""With this the page stays small enough to be mailed."""


@dataclass(frozen=True)
class Choice:
    """Images that are shown for one reason: their rows, the first the most so."""

    name: str
    about: str
    rows: NDArray[np.intp]


@dataclass(frozen=True)
class Row:
    """Pictures of one target: what it is, the flags of its maps, the pictures, their shares, and what turns it."""

    heading: str
    flags: list[str]
    panels: list[Panel]
    shares: Sequence[str] = ()
    turns: Sequence[str] = ()


@dataclass(frozen=True)
class Case:
    """One image as it is shown.

    Attributes
    ----------
    words
        The texts of the store about the image.
    text
        Sentences of the report's own; they do not repeat the prediction where the store has words.
    """

    id: str
    label: str
    choices: list[str]
    predictions: list[tuple[str, str]]
    words: list[str]
    text: str
    pairs: Sequence[Pair]
    flags: list[str]
    rows: list[Row]
    similar: Sequence[Neighbour]

    @property
    def size(self) -> int:
        panels = chain((panel for row in self.rows for panel in row.panels), (one.case.panel for one in self.similar))
        return sum(len(panel.uri) for panel in panels)


def choose(dataset: xr.Dataset, predictions: Predictions) -> list[Choice]:
    """Choose what to show of the explained images: some drawn at random, and those that one should look at."""
    count = dataset.sizes["image_id"]
    drawn = np.sort(np.random.default_rng(_SAMPLE_SEED).permutation(count)[:_CASES])
    found = [Choice("random", "drawn with a fixed seed", drawn)]

    def leading(name: str, about: str, values: NDArray[np.floating]) -> None:
        rows = np.argsort(-values, kind="stable")[:_CASES]
        if (rows := rows[np.isfinite(values[rows])]).size:
            found.append(Choice(name, about, rows))

    leading("uncertain", "the highest entropy of the prediction", predictions.entropy)
    certain = np.where(predictions.wrong, predictions.certainty, np.nan)
    leading("wrong but certain", "the highest probability of a prediction that differs from the label", certain)
    if "metric_relevance_mass" in dataset:
        leading("outside the mask", "the least evidence inside the mask", -_mean(dataset["metric_relevance_mass"]))
    if "metric_explainer_agreement" in dataset:
        leading(
            "disagreement",
            "the least mean rank correlation of explainers over all places",
            -_mean(dataset["metric_explainer_agreement"]),
        )
    for name, values in doubts(dataset).items():
        leading(name, "the most of it", values)
    flags = _flags(dataset)
    leading("flagged", "the most flags of the image and its maps", np.where(flags > 0, flags, np.nan))
    return found


def doubts(dataset: xr.Dataset) -> dict[str, NDArray[np.floating]]:
    """Collect how unsure members are of some images, ``(image,)``; the larger, the less sure."""
    found = {}
    for variable in dataset.data_vars.values():
        if variable.attrs.get("kind") != "uncertainty":
            continue
        kind, of = variable.attrs["of"], str(variable.name).rpartition("_")[2]
        if of == "entropy":
            found[f"uncertainty by {kind}"] = variable.values
        elif of == "information":
            found[f"members of {kind} differ"] = variable.values
        elif of == "maps":
            found[f"maps vary by {kind}"] = _mean(variable)
    return found


def _flags(dataset: xr.Dataset) -> NDArray[np.integer]:
    """Count the flags of each image: one of its own, and one of each of its maps."""
    counts = (dataset["image_flags"] > 0).astype(int)
    if "map_flags" in dataset:
        counts = counts + (dataset["map_flags"] > 0).sum(("target", "explainer"))
    return counts.values


def in_turn(choices: Sequence[Choice]) -> list[int]:
    """Rows of all choices, the first of each, the second of each and so on; each once."""
    mixed = chain.from_iterable(zip_longest(*(choice.rows for choice in choices)))
    return list(dict.fromkeys(int(row) for row in mixed if row is not None))


def show(
    chosen: xr.Dataset,
    rows: Sequence[int],
    choices: Sequence[Choice],
    predictions: Predictions,
    plan: Plan,
    scales: list[Scale],
    subjects: Sequence[str],
    others: Others | None,
    similar: Similar | None,
) -> Iterator[Case]:
    """Show images one after the other, until their pictures fill 6 MB.

    Parameters
    ----------
    chosen
        The images in memory, one for each of `rows`.
    subjects
        Whose image each explained image is.
    others
        The images whose maps are compared with; None if there are no maps.
    similar
        Who lies near whom; None if the store does not say it.
    """
    size = 0
    for place, row in enumerate(rows):
        image = chosen.isel(image_id=place)
        has_target = bool((image["target_class"].values != NO_CLASS).any())
        pairs = others.pairs(maps_of(image, others.explainers), subjects[row]) if others and has_target else []
        case = _case(image, row, choices, predictions, plan, scales, pairs, similar)
        size += case.size
        if size > _MOST_BYTES:
            return
        yield case


def _case(
    image: xr.Dataset,
    row: int,
    choices: Sequence[Choice],
    predictions: Predictions,
    plan: Plan,
    scales: list[Scale],
    pairs: Sequence[Pair],
    similar: Similar | None,
) -> Case:
    flags = _raised(image["image_flags"].expand_dims("row"))
    told = [scale.explainer for scale in scales if not scale.explainer.startswith(CONTROLS)]
    targets = np.flatnonzero(image["target_class"].values != NO_CLASS)
    has_places = not is_slide(image)  # words for the parts of a volume are none for a bag of tiles
    found = findings(image, int(targets[0]), told, pairs) if len(targets) and told and has_places else None
    classes = np.array(plan.model.classes)
    label = str(image["label"].values)
    said = " and ".join(classes[predictions.called[row]]) or "none of its classes"
    right = not predictions.wrong[row] if predictions.known[row] else None
    words = [str(one.values) for one in image.data_vars.values() if one.attrs.get("kind") == "text" and one]
    if "probability" not in image:
        text = ""
    elif words:
        text = evidence_in_words(found) if found else ""
    else:
        text = sentences(said, float(predictions.certainty[row]), label, right, found)
    text = f"{text} {fields_in_words(image, int(targets[0]))}".strip() if len(targets) else text
    return Case(
        id=str(image["image_id"].values),
        label=label,
        choices=[choice.name for choice in choices if row in choice.rows],
        predictions=_predictions(image),
        words=words,
        text=text,
        pairs=pairs,
        flags=[name for name, on in flags.items() if on],
        rows=_rows(image, plan, scales),
        similar=similar.of(image) if similar else [],
    )


def _predictions(image: xr.Dataset) -> list[tuple[str, str]]:
    """The likeliest classes, or the values of a regression in their order."""
    classes = image["class"].values
    if "probability" not in image:
        return [(str(name), number(value, ".4g")) for name, value in zip(classes, image["logit"].values, strict=True)]
    probability = image["probability"].values
    return [(str(classes[index]), percent(float(probability[index]))) for index in np.argsort(-probability)[:5]]


def _rows(image: xr.Dataset, plan: Plan, scales: list[Scale]) -> list[Row]:
    """Make a row of each target that the image has, with flags and pictures; without a target, the image alone."""
    rows, compared = [], with_input(image, plan)
    for target, index in enumerate(image["target_class"].values):
        if index != NO_CLASS and scales:
            flags = _raised(image["map_flags"].isel(target=target))
            found = [f"{name}: {', '.join(image['explainer'].values[on])}" for name, on in flags.items() if on.any()]
            by_rank = isinstance(plan.target, Predicted)
            title = image["class"].values[index] if by_rank else image["target"].values[target]
            pictures, shares = case_panels(compared, target, scales), shares_in_words(image, target)
            turns = counterfactuals_in_words(image, target)
            rows.append(Row(f"maps for {title}", found, pictures, shares, turns))
    return rows or [Row("no maps: the image has no target" if scales else "", [], case_panels(image, None, []))]


def _mean(metric: xr.DataArray) -> NDArray[np.floating]:
    """Mean over targets and explainers that look at the model; NaN where there is none."""
    told = [name for name in metric["explainer"].values if not str(name).startswith(CONTROLS)]
    return metric.sel(explainer=told).mean(("target", "explainer")).values


def _raised(flags: xr.DataArray) -> dict[str, NDArray[np.bool_]]:
    """Tell of each flag in words whether it is raised in each place of the first axis."""
    return raised(str(flags.name), flags_in(flags), flags.values)
