"""What is computed from ratings, held against published numbers, statsmodels, and by hand."""

import uuid
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats import inter_rater

from tasks.ratings.agreement import cohen_kappa, fleiss_kappa, gwet_ac1
from tasks.ratings.preference import preferences
from tasks.ratings.rating import Rating, Region
from tasks.ratings.statistics import Estimate, mean_over_patients

ABSTRACTORS = np.array([[13, 0, 0], [0, 20, 7], [0, 4, 56]])
"""Pregnancies by type and by each of two abstractors: `cont3x3abstractors` of Gwet's irrCAC, of his Handbook (2014)."""

FOUR_RATERS = ["11 1", "2232", "3333", "3333", "2222", "1234", "4444", "1121", "2222", " 555", "  11", "  3 "]
"""12 units by four raters, some missing: Gwet (2014), Handbook of Inter-Rater Reliability, 4th edition, page 120."""


def of_abstractors() -> tuple[list[str], list[str], NDArray[np.int64]]:
    cells = [(i, j) for i, j in np.ndindex(3, 3) for _ in range(ABSTRACTORS[i, j])]
    counts = np.array([np.bincount(cell, minlength=3) for cell in cells])
    return [str(i) for i, _ in cells], [str(j) for _, j in cells], counts


def each(counts: NDArray[np.int64]) -> list[str]:
    return [str(row) for row in range(len(counts))]


def test_two_raters_as_published() -> None:
    first, second, counts = of_abstractors()
    ac1, scott = gwet_ac1(counts, each(counts)), fleiss_kappa(counts, each(counts))
    assert ac1.value == pytest.approx(0.8493305, abs=5e-8)
    assert ac1.low == pytest.approx(0.764, abs=1e-3) and ac1.high == pytest.approx(0.935, abs=1e-3)
    assert scott.value == pytest.approx(0.7962397, abs=5e-8)
    assert scott.low == pytest.approx(0.679, abs=1e-3) and scott.high == pytest.approx(0.913, abs=1.1e-3)
    assert cohen_kappa(first, second).value == pytest.approx(0.7964094, abs=5e-8)


def test_raters_that_did_not_rate_all_as_published() -> None:
    counts = np.array([[row.count(str(category)) for category in range(1, 6)] for row in FOUR_RATERS])
    ac1, kappa = gwet_ac1(counts, each(counts)), fleiss_kappa(counts, each(counts))
    assert ac1.value == pytest.approx(0.77544, abs=5e-6) and kappa.value == pytest.approx(0.76117, abs=5e-6)
    assert ac1.low == pytest.approx(0.461, abs=5e-4) and ac1.high == 1
    assert kappa.low == pytest.approx(0.424, abs=5e-4) and kappa.high == 1


@pytest.mark.parametrize("seed", range(3))
def test_kappas_as_statsmodels_has_them(seed: int) -> None:
    given = np.random.default_rng(seed).integers(0, 3, (40, 4))
    counts, _ = inter_rater.aggregate_raters(given, 3)
    assert fleiss_kappa(counts, each(counts)).value == pytest.approx(inter_rater.fleiss_kappa(counts))
    table = np.zeros((3, 3))
    np.add.at(table, (given[:, 0], given[:, 1]), 1)
    expected = inter_rater.cohens_kappa(table, return_results=False)
    first, second = given[:, 0].astype(str).tolist(), given[:, 1].astype(str).tolist()
    assert cohen_kappa(first, second).value == pytest.approx(expected)


def test_images_of_one_patient_make_the_interval_no_narrower() -> None:
    _, _, counts = of_abstractors()
    twice = np.concatenate([counts, counts])
    once, doubled = gwet_ac1(counts, each(counts)), gwet_ac1(twice, each(counts) * 2)
    assert doubled == once
    alone = gwet_ac1(twice, each(twice))
    assert alone.value == once.value and (alone.low or 0) > (once.low or 0)


@pytest.mark.parametrize(
    "counts", [np.zeros((0, 3), int), np.zeros((3, 3), int), np.array([[1, 0, 0], [0, 1, 0]])], ids=len
)
def test_without_two_raters_of_a_case_there_is_no_agreement(counts: NDArray[np.int64]) -> None:
    assert fleiss_kappa(counts, each(counts)) == gwet_ac1(counts, each(counts)) == Estimate.of(np.nan)


def test_an_interval_of_kappa_ends_where_kappa_does() -> None:
    counts = np.array([[2, 0, 0], [1, 1, 0], [0, 1, 1]])
    for found in (fleiss_kappa(counts, each(counts)), gwet_ac1(counts, each(counts))):
        assert found.low == -1 and found.high == 1


def test_where_all_say_the_same_kappa_is_not_defined_and_ac1_is_one() -> None:
    counts = np.array([[3, 0, 0]] * 5)
    assert fleiss_kappa(counts, each(counts)).value is None
    assert gwet_ac1(counts, each(counts)).value == 1
    assert cohen_kappa(["agree"] * 4, ["agree"] * 4).value is None


def test_a_mean_has_the_interval_of_scipy_s_bootstrap_over_patients() -> None:
    generator = np.random.default_rng(1)
    patients = [str(number) for number in generator.integers(0, 30, 80)]
    values = generator.normal(size=80)
    values[7] = np.nan
    found = mean_over_patients(values, patients)
    by_patient = pd.Series(values).dropna().groupby(pd.Series(patients))
    sums, counts = by_patient.sum().to_numpy(), by_patient.count().to_numpy()
    expected = stats.bootstrap(
        (sums, counts), lambda s, c, axis: s.sum(axis) / c.sum(axis), paired=True, method="percentile", n_resamples=4000
    ).confidence_interval
    assert found.value == pytest.approx(np.nanmean(values))
    assert found.low == pytest.approx(expected.low, abs=0.03) and found.high == pytest.approx(expected.high, abs=0.03)
    assert mean_over_patients([1.0, 2.0], ["a", "a"]) == Estimate.of(1.5)
    assert mean_over_patients([np.nan], ["a"]) == mean_over_patients([], []) == Estimate.of(np.nan)


def a_rating(image: str = "image", **changes: Any) -> Rating:
    seen = {"shard": 0, "row": "0" * 16, "parts": ["0" * 64]}
    told = {"version": 1, "id": uuid.uuid4().hex, "image_id": image, "seen": seen, "rater": "a"}
    return Rating.model_validate(told | {"time": "2026-11-26T10:15:00Z"} | changes)


def test_an_explainer_wins_over_those_that_help_less() -> None:
    ratings = [
        a_rating("1", shown=["x", "y", "z"], helps=["y", "x"]),
        a_rating("2", shown=["x", "y"], helps=["x"]),
        a_rating("3", shown=["z", "x"], helps=[]),
        a_rating("4", shown=["x", "y"]),
        a_rating("5", shown=["x"], helps=["x"]),
    ]
    found = preferences(ratings, ("x", "y", "z", "never"), {str(n): f"patient {n}" for n in range(1, 6)})
    shares = {(one.explainer, one.over): (one.ratings, one.share.value) for one in found}
    assert shares == {
        ("x", None): (3, pytest.approx((0.5 + 1 + 0.5) / 3)),
        ("y", None): (2, pytest.approx(0.5)),
        ("z", None): (2, pytest.approx(0.25)),
        ("x", "y"): (2, pytest.approx(0.5)),
        ("x", "z"): (2, pytest.approx(0.75)),
        ("y", "z"): (1, pytest.approx(1.0)),
    }


@pytest.mark.parametrize("shape", [(7,), (5, 6), (3, 4, 5)])
@pytest.mark.parametrize("share", [0, 0.5, 1])
def test_a_region_is_its_mask(shape: tuple[int, ...], share: float) -> None:
    mask = np.random.default_rng(0).random(shape) < share
    region = Region.of(mask)
    assert (Region.model_validate_json(region.model_dump_json()).mask == mask).all()
    places = [place for start, length in region.runs for place in range(start, start + length)]
    assert places == np.flatnonzero(mask).tolist()


def test_a_comment_does_not_show_itself() -> None:
    assert "Jane" not in repr(a_rating(comment="Jane Doe")) + str(a_rating(comment="Jane Doe"))
