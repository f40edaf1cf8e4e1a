"""The explainers that can be trusted here: for each, by which tests its maps know more than the controls do."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from models.phrases import listed
from tasks.report.evidence import CONTROLS, Cell, Column, Family
from tasks.report.numbers import number

TELLING = ("faithfulness", "sanity", "plausibility")
"""Families in which a map has to surpass the controls to be worth a look. Nothing is more robust than a control, which
does not change, and a map that is sparse, or like another, is none the truer for it.
"""


_NAMED = 4
"""Tests that a reason names, at most; of more it says how many."""


@dataclass(frozen=True)
class Standing:
    """One explainer in the tests of one family: how many it passes, and the first of them as the example."""

    passed: int
    tests: int
    example: str


@dataclass(frozen=True)
class Trust:
    """One explainer: the answer in two words, the reason in a sentence, and its standing in each family."""

    explainer: str
    answer: str
    reason: str
    standings: list[Standing]


def trusted(families: Sequence[Family]) -> tuple[list[str], list[Trust]]:
    """Judge the explainers by the telling families that were tested against controls.

    A test is a metric that is defined for an explainer and for a control. It is passed where the mean differs from
    every control, on the better side of all. Families are not added up: explainers are ordered by the share of tests
    that they pass in the first family of `TELLING`, then in the next.

    Returns
    -------
    tuple
        Names of the families, and the explainers; both empty where there is no control or no such test.
    """
    telling = [family for name in TELLING for family in families if family.name == name and _tests(family)]
    if not telling or not any(name.startswith(CONTROLS) for name, _ in telling[0].rows):
        return [], []
    names = [name for name, _ in telling[0].rows if not name.startswith(CONTROLS)]
    found = [_judged(name, telling) for name in names]
    found.sort(key=lambda one: [-standing.passed / standing.tests for standing in one.standings])
    return [family.name for family in telling], found


def _judged(explainer: str, families: Sequence[Family]) -> Trust:
    passed: list[str] = []
    alike: list[str] = []
    worse: list[str] = []
    undefined: list[str] = []
    for family in families:
        cells = dict(family.rows)[explainer]
        for place in _tests(family):
            cell, name = cells[place], family.columns[place].name
            is_known = cell.mean == cell.mean
            (passed if cell.is_better else worse if cell.is_worse else alike if is_known else undefined).append(name)
    answer = "yes" if not alike and not worse and not undefined else "in part" if passed else "not shown"
    reasons = [
        f"{verdict} {listed(names) if len(names) <= _NAMED else f'{len(names)} tests'}"
        for verdict, names in (
            ("better by", passed),
            ("no better by", alike),
            ("worse by", worse),
            ("undefined by", undefined),
        )
        if names
    ]
    return Trust(explainer, answer, "; ".join(reasons), [_standing(explainer, family) for family in families])


def _standing(explainer: str, family: Family) -> Standing:
    rows, places = dict(family.rows), _tests(family)
    controls = [cells for name, cells in family.rows if name.startswith(CONTROLS)]
    passed = sum(rows[explainer][place].is_better for place in places)
    first = places[0]
    best = _best([cells[first] for cells in controls], family.columns[first])
    example = f"{family.columns[first].name} {number(rows[explainer][first].mean, '.2f')}, controls {best}"
    return Standing(passed, len(places), example)


def _best(controls: Sequence[Cell], column: Column) -> str:
    """Write the best that a control reaches."""
    known = [cell.mean for cell in controls if cell.mean == cell.mean]
    chosen = min if column.better == "lower" else max
    return number(chosen(known), ".2f") if known else "undefined"


def _tests(family: Family) -> list[int]:
    """Places of the metrics of which one direction is better, and that are defined for an explainer and a control."""
    known = [
        {place for name, cells in family.rows if name.startswith(CONTROLS) == is_control for place in _known(cells)}
        for is_control in (True, False)
    ]
    directed = (place for place, column in enumerate(family.columns) if column.better != "none")
    return [place for place in directed if place in known[0] & known[1]]


def _known(cells: Sequence[Cell]) -> Iterator[int]:
    return (place for place, cell in enumerate(cells) if cell.mean == cell.mean)
