import math

import pytest

from tasks.report.evidence import Cell, Column, Family
from tasks.report.trust import trusted

BETTER = Cell(0.9, 0.8, 1.0, is_chance=False, is_better=True)
ALIKE = Cell(0.3, 0.2, 0.4, is_chance=True)
WORSE = Cell(0.1, 0.0, 0.2, is_chance=False, is_worse=True)
CONTROL = Cell(0.3, 0.2, 0.4, is_chance=False)


def family(name: str, better: str = "higher", **cells: list[Cell]) -> Family:
    columns = [Column(f"{name}_{place}", better, "") for place in range(len(cells["control_random"]))]
    return Family(name, columns, list(cells.items()))


def test_explainers_are_held_against_the_controls_family_by_family() -> None:
    plausible = family(
        "plausibility", a=[BETTER, WORSE], b=[BETTER, BETTER], c=[ALIKE, WORSE], control_random=[CONTROL] * 2
    )
    faithful = family("faithfulness", a=[BETTER], b=[BETTER], c=[ALIKE], control_random=[CONTROL])
    sparse = family("complexity", a=[WORSE], b=[WORSE], c=[BETTER], control_random=[CONTROL])
    robust = family("robustness", a=[WORSE], b=[WORSE], c=[WORSE], control_random=[CONTROL])
    names, found = trusted([plausible, faithful, sparse, robust])
    assert names == ["faithfulness", "plausibility"]
    assert [(one.explainer, one.answer) for one in found] == [("b", "yes"), ("a", "in part"), ("c", "not shown")]
    assert found[1].reason == "better by faithfulness_0 and plausibility_0; worse by plausibility_1"
    assert [(one.passed, one.tests) for one in found[1].standings] == [(1, 1), (1, 2)]
    assert found[1].standings[0].example == "faithfulness_0 0.90, controls 0.30"


@pytest.mark.parametrize("better", ["higher", "lower"])
def test_the_best_that_a_control_reaches_is_told(better: str) -> None:
    low, high = Cell(0.1, 0.0, 0.2, False), Cell(0.7, 0.6, 0.8, False)
    tested = family("sanity", better, a=[BETTER], control_random=[low], control_edges=[high])
    ((_, found),) = [trusted([tested])]
    assert found[0].standings[0].example.endswith("controls 0.70" if better == "higher" else "controls 0.10")


def test_without_a_control_or_a_telling_test_nothing_is_judged() -> None:
    alone = Family("plausibility", [Column("hit_rate", "higher", "")], [("a", [BETTER])])
    undirected = family("faithfulness", "none", a=[BETTER], control_random=[CONTROL])
    sparse = family("complexity", a=[BETTER], control_random=[CONTROL])
    assert trusted([alone]) == trusted([undirected, sparse]) == trusted([]) == ([], [])


def test_a_test_that_is_not_defined_is_none_and_of_one_explainer_is_said_to_be_undefined() -> None:
    nan = Cell(math.nan, math.nan, math.nan, is_chance=False)
    nowhere = family("plausibility", a=[nan], control_random=[nan])
    assert trusted([nowhere]) == ([], [])
    told = family("plausibility", a=[BETTER, nan], b=[BETTER, nan], control_random=[CONTROL] * 2)
    assert [(one.answer, one.reason) for one in trusted([told])[1]] == [("yes", "better by plausibility_0")] * 2
    told = family("plausibility", a=[BETTER, nan], b=[BETTER, BETTER], control_random=[CONTROL] * 2)
    _, (b, a) = trusted([told])
    assert (b.answer, a.answer) == ("yes", "in part")
    assert a.reason == "better by plausibility_0; undefined by plausibility_1"
