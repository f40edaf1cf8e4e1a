"""The report: one page that needs neither a server nor a network."""

import hashlib
from base64 import b64encode
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import numpy as np
import xarray as xr
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray

from models.labels import NOTHING, without_concepts
from tasks.cohort.entry import Entry
from tasks.plain import plain_lines
from tasks.plan import manifest
from tasks.plan.labels import Labels, read_labels
from tasks.plan.plan import Plan
from tasks.report.agreement import draw_others
from tasks.report.cases import Predictions, choose, in_turn, show
from tasks.report.concepts import tested_concepts
from tasks.report.counterfactuals import turned_predictions
from tasks.report.evidence import CONTROLS, as_csv, curves, evidence_table, families, suspicion
from tasks.report.fields import by_explainer
from tasks.report.inventory import describe
from tasks.report.means import fitting, mean_maps
from tasks.report.measures import regressed_measures
from tasks.report.performance import performance
from tasks.report.pictures import scales_of
from tasks.report.plots import ABREAST, ascent_plot, calibration_plot, curve_plot, family_plot, roc_plot
from tasks.report.prototype_patches import patches_of_prototypes
from tasks.report.prototypes import prototypes_of_classes
from tasks.report.regions import by_region
from tasks.report.remarks import remarks_on, remarks_on_borders
from tasks.report.shares import mean_shares
from tasks.report.sheet import sheet
from tasks.report.shortcuts import explained_alike
from tasks.report.similar import retrieval, similar_cases
from tasks.report.slides import is_slide, tile_values
from tasks.report.visualisations import visualised
from tasks.report.words import NAMED
from tasks.storage.location import Location
from tasks.store.template import EXPLAINED, open_store
from tasks.work.finish import summarise

NAME, PICTURE, TABLE = "report/index.html", "report/cases.png", "report/evidence.csv"

_REASONS_SHOWN = 500
_IDS_SHOWN = 20


def write_report(output: Location) -> Location:
    """Write the page of a finished output; beside it its first cases as a picture, and the evidence table, if any.

    Returns where the page is.
    """
    summary = summarise(output)
    plan, entries = Plan.read(output), manifest.read(output, sources=False)
    dataset = open_store(output)
    explained = np.flatnonzero(dataset["status"].values == EXPLAINED)
    dataset = dataset.isel(image_id=explained)
    spelt = without_concepts(map(str, dataset["label"].values), plan.concepts)
    labels = read_labels(spelt, plan.model.classes, _exclusive(plan))
    predictions = _predictions(dataset, plan, labels)
    subjects = [entries[row].subject or entries[row].id for row in explained]
    right = None
    if "probability" in dataset:
        right = performance(dataset["probability"].values, spelt, subjects, plan.model.classes, _exclusive(plan))
    has_maps = "attribution" in dataset and bool(len(explained))
    called = predictions.called if "probability" in dataset else None
    groups, mean_scales = mean_maps(dataset, called, labels if right else None) if has_maps else ([], [])
    table = evidence_table(dataset, subjects)
    choices = choose(dataset, predictions) if len(explained) else []
    rows = in_turn(choices)
    chosen = dataset.isel(image_id=rows)
    chosen = (chosen.drop_vars("image") if is_slide(chosen) else chosen).load()  # an overview is shown instead
    scales = scales_of([tile_values(chosen) if is_slide(chosen) else chosen["attribution"]]) if has_maps else []
    told = [scale.explainer for scale in scales if not scale.explainer.startswith(CONTROLS)]
    compared = draw_others(dataset, told, subjects) if has_maps else None
    similar = similar_cases(plan.outputs.values(), dataset, explained)
    beside = similar[0] if similar else None
    cases = list(show(chosen, rows, choices, predictions, plan, scales, subjects, compared, beside))
    refused = _reasons(entries)
    script = files("tasks.report").joinpath("order.js").read_text()
    environment = Environment(
        loader=PackageLoader("tasks.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        finalize=lambda value: plain_lines(value) if type(value) is str else value,
    )
    page = environment.get_template("index.html.j2").render(
        plan=plan,
        summary=summary,
        attributes=dataset.attrs,
        performance=right,
        unread=labels.unread,
        labelled=int(labels.known.sum()),
        roc=roc_plot(right.classes[1:] if _exclusive(plan) and len(right.classes) == 2 else right.classes)
        if right
        else "",
        calibration=calibration_plot(right.calibration) if right else "",
        families=[] if table is None else [(family, family_plot(family)) for family in families(table, dataset)],
        suspicion="" if table is None or right is None else suspicion(table, max(c.auc.value for c in right.classes)),
        remarks=remarks_on(summary.flags) + remarks_on_borders(None if is_slide(dataset) else compared),
        abreast=ABREAST,
        curves=[(curve, curve_plot(curve)) for curve in curves(dataset)],
        shares=mean_shares(dataset, subjects) if has_maps else [],
        regions=list(by_region(dataset, plan.results, subjects, labels, _exclusive(plan))) if has_maps else [],
        groups=fitting(groups),
        outcomes=len(groups),
        mean_scales=mean_scales,
        concepts=tested_concepts(plan, dataset),
        measures=regressed_measures(plan, dataset),
        prototypes=prototypes_of_classes(plan, dataset, explained),
        visualisations=visualised(plan, dataset, explained),
        ascent_plot=ascent_plot,
        patches=patches_of_prototypes(plan, dataset, explained),
        turned=turned_predictions(dataset, subjects) if has_maps else [],
        alike=explained_alike(plan.outputs.values(), dataset),
        fields=plan.frame.fields,
        field_rows=by_explainer(dataset) if has_maps else [],
        scales=scales,
        choices=choices,
        similar=beside,
        retrieved=[one for each in similar for one in retrieval(each, subjects)],
        others=list(describe(plan.outputs.values(), dataset)),
        cases=cases,
        orders=[
            name for name in (cases[0].orders if cases else ()) if any(np.isfinite(one.orders[name]) for one in cases)
        ],
        refused=refused[:_REASONS_SHOWN],
        refused_count=len(refused),
        ids_shown=_IDS_SHOWN,
        compared=compared if cases and any(case.pairs for case in cases) else None,
        named=NAMED,
        has_maps=has_maps,
        nothing=NOTHING,
        script=script,
        script_hash=b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )
    (output / PICTURE).write(sheet(cases))
    if table is None:
        (output / TABLE).remove()
    else:
        (output / TABLE).write(as_csv(table))
    location = output / NAME
    location.write(page.encode())
    return location


def remove_report(output: Location) -> None:
    for name in (NAME, PICTURE, TABLE):
        (output / name).remove()


@dataclass(frozen=True)
class Reason:
    """A reason for which images were left out, and these images, as the manifest has them."""

    text: str
    formats: str
    ids: list[str]


def _reasons(entries: Sequence[Entry]) -> list[Reason]:
    """Group what was left out by the reason, the most frequent first."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.reason:
            found.setdefault(entry.reason, []).append(entry)
    return [
        Reason(text, ", ".join(sorted({entry.format or "unknown" for entry in alike})), [entry.id for entry in alike])
        for text, alike in sorted(found.items(), key=lambda item: -len(item[1]))
    ]


def _predictions(dataset: xr.Dataset, plan: Plan, labels: Labels) -> Predictions:
    if "probability" not in dataset:
        unknown = np.full(len(labels.known), np.nan)
        return Predictions(np.zeros_like(labels.truth), labels.truth, np.zeros_like(labels.known), unknown, unknown)
    probability = dataset["probability"].values
    if _exclusive(plan):
        called = np.eye(len(plan.model.classes), dtype=bool)[probability.argmax(1)]
        certainty = probability.max(1)
    else:
        called = probability >= 0.5
        certainty = np.where(called, probability, 1 - probability).min(1)
    return Predictions(called, labels.truth, labels.known, certainty, entropy(probability, plan.model.activation))


def _exclusive(plan: Plan) -> bool:
    return plan.model.activation == "softmax"


def entropy(probability: NDArray[np.floating], activation: str) -> NDArray[np.floating]:
    """Entropy in bits of ``(image, class)``; for sigmoid outputs that of the class that is least certain."""
    terms = -probability * np.log2(np.clip(probability, 1e-12, 1))
    if activation == "softmax":
        return terms.sum(1)
    other = 1 - probability
    return (terms - other * np.log2(np.clip(other, 1e-12, 1))).max(1)
