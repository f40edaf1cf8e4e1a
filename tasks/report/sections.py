"""The sections of the report: what their templates are filled with, by name."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from tasks.cohort.entry import Entry
from tasks.report.agreement import draw_others
from tasks.report.cases import choose, in_turn, show
from tasks.report.concepts import tested_concepts
from tasks.report.counterfactuals import turned_predictions
from tasks.report.evidence import CONTROLS, curves, families, suspicion
from tasks.report.explained import ExplainedImages
from tasks.report.fields import by_explainer
from tasks.report.inventory import describe
from tasks.report.left_out import reasons
from tasks.report.means import fitting, mean_maps
from tasks.report.measures import regressed_measures
from tasks.report.pictures import Scale, scales_by, scales_of
from tasks.report.plots import ascent_plot, calibration_plot, curve_plot, family_plot, roc_plot
from tasks.report.prototype_patches import patches_of_prototypes
from tasks.report.prototypes import prototypes_of_classes
from tasks.report.regions import by_region
from tasks.report.remarks import remarks_on_borders
from tasks.report.shares import mean_shares
from tasks.report.shortcuts import explained_alike
from tasks.report.similar import retrieval, similar_cases
from tasks.report.slides import is_slide, tile_values
from tasks.report.trust import TELLING, trusted
from tasks.report.visualisations import visualised
from tasks.store.scales import Reach

Parts = dict[str, Any]

_REASONS_SHOWN = 500
_IDS_SHOWN = 20


def of_performance(images: ExplainedImages) -> Parts:
    right = images.performance
    drawn = right.classes if right else ()
    return {
        "performance": right,
        "wrong": int(images.predictions.wrong.sum()),
        "unread": images.labels.unread,
        "labelled": int(images.labels.known.sum()),
        "roc": roc_plot(drawn[1:] if images.exclusive and len(drawn) == 2 else drawn) if right else "",
        "calibration": calibration_plot(right.calibration) if right else "",
    }


def of_metrics(images: ExplainedImages, table: pd.DataFrame | None) -> Parts:
    """Fill in what the evidence table says; None: there are no metrics."""
    tested = [] if table is None else families(table, images.dataset)
    named, trust = trusted(tested)
    right = images.performance
    return {
        "families": [(family, family_plot(family)) for family in tested],
        "trust": trust,
        "trust_families": named,
        "untested": [name for name in TELLING if name not in named],
        "suspicion": "" if table is None or right is None else suspicion(table, right.best_auc),
        "curves": [(curve, curve_plot(curve)) for curve in curves(images.dataset)],
    }


def of_maps(images: ExplainedImages) -> Parts:
    """Fill in what maps show over the cohort; nothing where there are none."""
    dataset, subjects, labels, has_maps = images.dataset, images.subjects, images.labels, images.has_maps
    known = labels if images.performance else None
    groups, scales = mean_maps(dataset, images.called, known) if has_maps else ([], [])
    regions = by_region(dataset, images.plan.results, subjects, labels, images.exclusive) if has_maps else ()
    return {
        "has_maps": has_maps,
        "groups": fitting(groups),
        "outcomes": len(groups),
        "mean_scales": scales,
        "shares": mean_shares(dataset, subjects) if has_maps else [],
        "regions": list(regions),
        "turned": turned_predictions(dataset, subjects) if has_maps else [],
        "field_rows": by_explainer(dataset) if has_maps else [],
    }


def of_results(images: ExplainedImages) -> Parts:
    plan, dataset, rows = images.plan, images.dataset, images.rows
    return {
        "concepts": tested_concepts(plan, dataset),
        "measures": regressed_measures(plan, dataset),
        "prototypes": prototypes_of_classes(plan, dataset, rows),
        "visualisations": visualised(plan, dataset, rows),
        "ascent_plot": ascent_plot,
        "patches": patches_of_prototypes(plan, dataset, rows),
        "alike": explained_alike(plan.outputs.values(), dataset),
        "others": list(describe(plan.outputs.values(), dataset)),
    }


def of_cases(images: ExplainedImages, reaches: Mapping[str, Reach], ranked: Sequence[str]) -> Parts:
    """Fill in the cases with their maps, those of explainers that can be trusted most first.

    Parameters
    ----------
    reaches
        By explainer, how far its maps reach over the cohort.
    ranked
        The explainers, the most trusted first; none where they were not tested.
    """
    dataset, subjects, has_maps = images.dataset, images.subjects, images.has_maps
    choices = choose(dataset, images.predictions) if len(images.rows) else []
    rows = in_turn(choices)
    chosen = dataset.isel(image_id=rows)
    chosen = (chosen.drop_vars("image") if is_slide(chosen) else chosen).load()  # an overview is shown instead
    scales: list[Scale] = []
    if has_maps:
        scales = scales_of([tile_values(chosen)]) if is_slide(chosen) else scales_by(reaches)
    controls = [scale.explainer for scale in scales if scale.explainer.startswith(CONTROLS)]
    scales = [scale for scale in scales if scale.explainer not in controls]
    scales.sort(key=lambda scale: ranked.index(scale.explainer) if ranked else 0)
    compared = draw_others(dataset, [scale.explainer for scale in scales], subjects) if has_maps else None
    similar = similar_cases(images.plan.outputs.values(), dataset, images.rows)
    beside = similar[0] if similar else None
    cases = list(show(chosen, rows, choices, images.predictions, images.plan, scales, subjects, compared, beside))
    return {
        "scales": scales,
        "controls": controls,
        "choices": choices,
        "cases": cases,
        "compared": compared if any(case.pairs for case in cases) else None,
        "on_borders": remarks_on_borders(None if is_slide(dataset) else compared),
        "similar": beside,
        "retrieved": [one for each in similar for one in retrieval(each, subjects)],
    }


def of_left_out(entries: Sequence[Entry]) -> Parts:
    refused = reasons(entries)
    return {"refused": refused[:_REASONS_SHOWN], "refused_count": len(refused), "ids_shown": _IDS_SHOWN}
