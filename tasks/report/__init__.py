"""The report: one page that needs neither a server nor a network."""

from models.explainers.base import MAPS
from models.labels import NOTHING
from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.report.evidence import evidence_table
from tasks.report.explained import ExplainedImages
from tasks.report.page import render
from tasks.report.ratings import told_ratings
from tasks.report.recipe import recipe_in_words
from tasks.report.remarks import remarks_on
from tasks.report.sections import of_cases, of_left_out, of_maps, of_metrics, of_performance, of_results
from tasks.report.sheet import sheet
from tasks.report.words import NAMED
from tasks.storage.location import Location
from tasks.store.scales import Reaches, reaches_of
from tasks.store.template import open_store
from tasks.tables import as_csv
from tasks.work.finish import summarise

NAME, PICTURE, TABLE = "report/index.html", "report/cases.png", "report/evidence.csv"


def write_report(output: Location, reaches: Reaches | None = None) -> Location:
    """Write the page of a finished output; beside it its first cases as a picture, and the evidence table, if any.

    Parameters
    ----------
    reaches
        How far the maps reach over the cohort; None: they are looked at.

    Returns
    -------
    Location
        The place of the page.
    """
    summary = summarise(output)
    plan, entries = Plan.read(output), manifest.read(output, sources=False)
    stored = open_store(output)
    if reaches is None:
        reaches = reaches_of(stored, (one for one in plan.outputs.values() if one.name == MAPS))
    images = ExplainedImages.of(plan, entries, stored)
    table = evidence_table(images.dataset, images.subjects)
    metrics = of_metrics(images, table)
    cases = of_cases(images, reaches.get(MAPS, {}), [one.explainer for one in metrics["trust"]])
    page = render(
        plan=plan,
        summary=summary,
        attributes=stored.attrs,
        recipe=list(recipe_in_words(plan)),
        on_flags=remarks_on(summary.flags),
        fields=plan.frame.fields,
        rated=told_ratings(output, plan),
        named=NAMED,
        nothing=NOTHING,
        **of_performance(images),
        **metrics,
        **of_maps(images),
        **of_results(images),
        **cases,
        **of_left_out(entries),
    )
    (output / PICTURE).write(sheet(cases["cases"]))
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
