"""The report: one page that needs neither a server nor a network."""

import numpy as np

from models.labels import NOTHING, without_concepts
from tasks.plan import manifest
from tasks.plan.labels import read_labels
from tasks.plan.plan import Plan
from tasks.plan.predictions import held_against
from tasks.report.agreement import draw_others
from tasks.report.cases import choose, in_turn, show
from tasks.report.concepts import tested_concepts
from tasks.report.counterfactuals import turned_predictions
from tasks.report.evidence import CONTROLS, curves, evidence_table, families, suspicion
from tasks.report.fields import by_explainer
from tasks.report.inventory import describe
from tasks.report.left_out import reasons
from tasks.report.means import fitting, mean_maps
from tasks.report.measures import regressed_measures
from tasks.report.page import render
from tasks.report.performance import performance
from tasks.report.pictures import scales_of, shared_scales
from tasks.report.plots import ascent_plot, calibration_plot, curve_plot, family_plot, roc_plot
from tasks.report.prototype_patches import patches_of_prototypes
from tasks.report.prototypes import prototypes_of_classes
from tasks.report.ratings import told_ratings
from tasks.report.recipe import recipe_in_words
from tasks.report.regions import by_region
from tasks.report.remarks import remarks_on, remarks_on_borders
from tasks.report.shares import mean_shares
from tasks.report.sheet import sheet
from tasks.report.shortcuts import explained_alike
from tasks.report.similar import retrieval, similar_cases
from tasks.report.slides import is_slide, tile_values
from tasks.report.trust import TELLING, trusted
from tasks.report.visualisations import visualised
from tasks.report.words import NAMED
from tasks.storage.location import Location
from tasks.store.template import EXPLAINED, open_store
from tasks.tables import as_csv
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
    stored = open_store(output)
    explained = np.flatnonzero(stored["status"].values == EXPLAINED)
    dataset = stored.isel(image_id=explained)
    exclusive = plan.model.activation == "softmax"
    spelt = without_concepts(map(str, dataset["label"].values), plan.concepts)
    labels = read_labels(spelt, plan.model.classes, exclusive)
    probability = dataset["probability"].values if "probability" in dataset else None
    predictions = held_against(labels, probability, plan.model.activation)
    subjects = [entries[row].subject or entries[row].id for row in explained]
    right = None
    if probability is not None:
        right = performance(probability, spelt, subjects, plan.model.classes, exclusive)
    has_maps = "attribution" in dataset and bool(len(explained))
    called = predictions.called if probability is not None else None
    groups, mean_scales = mean_maps(dataset, called, labels if right else None) if has_maps else ([], [])
    table = evidence_table(dataset, subjects)
    tested = [] if table is None else families(table, dataset)
    trust_families, trust = trusted(tested)
    choices = choose(dataset, predictions) if len(explained) else []
    rows = in_turn(choices)
    chosen = dataset.isel(image_id=rows)
    chosen = (chosen.drop_vars("image") if is_slide(chosen) else chosen).load()  # an overview is shown instead
    if is_slide(chosen):
        scales = scales_of([tile_values(chosen)]) if has_maps else []
    else:
        scales = shared_scales(stored["attribution"], explained) if has_maps else []
    controls = [scale.explainer for scale in scales if scale.explainer.startswith(CONTROLS)]
    ranked = [one.explainer for one in trust]
    scales = [scale for scale in scales if scale.explainer not in controls]
    scales.sort(key=lambda scale: ranked.index(scale.explainer) if ranked else 0)
    compared = draw_others(dataset, [scale.explainer for scale in scales], subjects) if has_maps else None
    similar = similar_cases(plan.outputs.values(), dataset, explained)
    beside = similar[0] if similar else None
    cases = list(show(chosen, rows, choices, predictions, plan, scales, subjects, compared, beside))
    refused = reasons(entries)
    page = render(
        plan=plan,
        summary=summary,
        attributes=dataset.attrs,
        recipe=list(recipe_in_words(plan)),
        performance=right,
        wrong=int(predictions.wrong.sum()),
        unread=labels.unread,
        labelled=int(labels.known.sum()),
        roc=roc_plot(right.classes[1:] if exclusive and len(right.classes) == 2 else right.classes) if right else "",
        calibration=calibration_plot(right.calibration) if right else "",
        families=[(family, family_plot(family)) for family in tested],
        trust=trust,
        trust_families=trust_families,
        untested=[name for name in TELLING if name not in trust_families],
        controls=controls,
        suspicion="" if table is None or right is None else suspicion(table, right.best_auc),
        remarks=remarks_on(summary.flags) + remarks_on_borders(None if is_slide(dataset) else compared),
        curves=[(curve, curve_plot(curve)) for curve in curves(dataset)],
        shares=mean_shares(dataset, subjects) if has_maps else [],
        regions=list(by_region(dataset, plan.results, subjects, labels, exclusive)) if has_maps else [],
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
        refused=refused[:_REASONS_SHOWN],
        refused_count=len(refused),
        ids_shown=_IDS_SHOWN,
        compared=compared if cases and any(case.pairs for case in cases) else None,
        rated=told_ratings(output, plan),
        named=NAMED,
        has_maps=has_maps,
        nothing=NOTHING,
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
