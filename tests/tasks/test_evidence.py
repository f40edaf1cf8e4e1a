"""The evidence table: means and corrections by hand, and intervals that hold what they promise."""

import csv
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
import pytest
from numpy.typing import NDArray
from scipy import stats
from statsmodels.stats.multitest import multipletests

from models.results.statistics import holm
from tasks.report.statistics import evidence
from tasks.tables import as_csv

EXPLAINERS = ("good", "poor", "control_random", "control_edges")
CONTROLS = EXPLAINERS[2:]


def table(scores: Any, classes: Any = None, patients: Any = None, **options: Any) -> Any:
    images, targets = next(iter(scores.values())).shape[:2]
    classes = np.full((images, targets), "a") if classes is None else classes
    patients = [str(image) for image in range(images)] if patients is None else patients
    return evidence(scores, EXPLAINERS, classes, patients, CONTROLS, **options)


def noise(images: int, targets: int = 1, seed: int = 0) -> NDArray[np.float64]:
    return np.random.default_rng(seed).normal(size=(images, targets, len(EXPLAINERS)))


def test_means_are_of_the_defined_values_of_each_class() -> None:
    scores = noise(6, 2)
    scores[0, 0, 0] = np.nan
    scores[:, :, 1] = np.nan
    classes = np.array([["a", "b"], ["a", "b"], ["a", ""], ["b", "a"], ["b", "a"], ["b", ""]])
    patients = ["one", "one", "two", "two", "three", "four"]
    found = table({"iou": scores}, classes, patients)
    assert found.index.names == ["class", "metric", "explainer"]
    assert found.index.get_level_values(0).unique().tolist() == ["all", "a", "b"]
    assert found.loc[("a", "iou", "good"), "mean"] == pytest.approx(scores[..., 0][classes == "a"][1:].mean())
    assert found.loc[("a", "iou", "control_edges"), "mean"] == pytest.approx(scores[..., 3][classes == "a"].mean())
    assert found.loc[("all", "iou", "control_edges"), "mean"] == pytest.approx(scores[..., 3][classes != ""].mean())
    assert found.loc[("a", "iou", "good"), ["values", "patients"]].tolist() == [4, 3]
    assert found.loc[("b", "iou", "control_random"), ["values", "patients"]].tolist() == [5, 4]
    undefined = found.loc[("all", "iou", "poor")]
    assert undefined["values"] == 0 and np.isnan(undefined["mean"]) and not undefined["differs"]


def test_the_difference_is_paired_on_what_both_define() -> None:
    scores = noise(40)
    scores[:10, 0, 0] = np.nan
    scores[35:, 0, 2] = np.nan
    found = table({"iou": scores}).loc[("all", "iou", "good")]
    own, control = scores[10:35, 0, 0], scores[10:35, 0, 2]
    assert found["minus_control_random"] == pytest.approx((own - control).mean())
    assert found["minus_control_random_low"] < found["minus_control_random"] < found["minus_control_random_high"]


def test_with_one_image_a_patient_p_is_that_of_the_paired_t_test() -> None:
    scores = noise(30)
    found = table({"iou": scores}).loc["all"]
    p = [
        stats.ttest_rel(scores[:, 0, row], scores[:, 0, control]).pvalue if row < 2 else np.nan
        for row in range(4)
        for control in (2, 3)
    ]
    ours = found[["p_control_random", "p_control_edges"]].to_numpy().ravel()
    np.testing.assert_allclose(ours, holm(np.array(p)), rtol=1e-9)
    assert np.isnan(ours).sum() == 4


def test_holm_by_hand() -> None:
    # sorted 0.01, 0.015, 0.03, 0.5 times 4, 3, 2, 1: 0.04, 0.045, 0.06, 0.5
    np.testing.assert_allclose(holm(np.array([0.03, 0.01, np.nan, 0.5, 0.015])), [0.06, 0.04, np.nan, 0.5, 0.045])
    # 0.02 * 3 = 0.06 is more than 0.022 * 2 = 0.044, which may not be smaller; and none is more than 1
    np.testing.assert_allclose(holm(np.array([0.022, 0.02, 0.9])), [0.06, 0.06, 0.9])
    np.testing.assert_allclose(holm(np.array([0.6, 0.7])), [1.0, 1.0])


@pytest.mark.parametrize("seed", range(5))
def test_holm_is_that_of_statsmodels(seed: int) -> None:
    p = np.random.default_rng(seed).beta(0.5, 2, 40)
    p[::7] = p[1]  # ties
    np.testing.assert_allclose(holm(p), multipletests(p, method="holm")[1], rtol=1e-12)


@pytest.mark.parametrize(
    ("name", "cell"),
    [
        ("=1+1", "'=1+1"),
        ("+cmd", "'+cmd"),
        ("-cmd|' /C calc'!A0", "'-cmd|' /C calc'!A0"),
        ("@SUM(A1)", "'@SUM(A1)"),
        ("\t=1", r"\t=1"),
        ("\r=1", r"\r=1"),
        ("a\r\n=1", r"a\r\n=1"),
        ("-1", "-1"),
        ("+2.5e3", "+2.5e3"),
        ("mass, left", "mass, left"),
        ("a=b", "a=b"),
    ],
)
def test_no_cell_is_a_formula_and_numbers_stay_numbers(name: str, cell: str) -> None:
    found = table({"iou": noise(4) - 5}, np.full((4, 1), name))
    rows = list(csv.reader(StringIO(as_csv(found).decode(), newline="")))
    assert rows[0][:4] == ["class", "metric", "explainer", "values"]
    assert [row[0] for row in rows[1:]] == ["all"] * 4 + [cell] * 4
    means = found["mean"].tolist()
    assert [float(row[rows[0].index("mean")]) for row in rows[1:]] == pytest.approx(means) and max(means) < 0


def test_the_correction_is_over_all_comparisons_of_a_class() -> None:
    scores = {"one": noise(30, seed=1), "two": noise(30, seed=2)}
    scores["one"][..., 0] += 0.8
    both, alone = table(scores), table({"one": scores["one"]})
    p = [float(part.loc[("all", "one", "good"), "p_control_random"]) for part in (both, alone)]
    assert p[0] == pytest.approx(p[1] * 7 / 3) and p[0] < 0.1  # the second least of eight, and of four
    two_classes = table(scores, np.repeat([["a"], ["b"]], 15, 0))
    pd.testing.assert_frame_equal(two_classes.loc["all"], both.loc["all"])


def test_what_is_better_than_all_controls_differs_and_what_is_like_one_does_not() -> None:
    scores = noise(60)
    scores[..., 0] += 2.0
    scores[..., 3] += 0.5
    scores[..., 1] = scores[..., 3]
    differs = table({"iou": scores}).loc[("all", "iou")]["differs"]
    assert differs.tolist() == [True, False, False, False]
    same = table({"iou": scores}).loc[("all", "iou", "poor")]
    assert same["p_control_edges"] == 1.0 and same["minus_control_edges"] == 0.0


def test_few_patients_cannot_be_sure_however_alike_their_differences() -> None:
    scores = np.zeros((12, 1, 4))
    scores[..., 0] = 1.0
    found = table({"hit_rate": scores}, patients=[str(image % 3) for image in range(12)]).loc["all"]
    assert found.loc[("hit_rate", "good"), "p_control_random"] == 1.0  # 2^-2, four comparisons
    alone = table({"hit_rate": scores}, patients=["same"] * 12).loc[("all", "hit_rate", "good")]
    assert alone["mean"] == 1.0
    assert np.isnan(alone[["low", "high", "p_control_random", "minus_control_random_low"]].astype(float)).all()


def test_a_seed_gives_the_same_table_and_the_order_of_images_does_not_matter() -> None:
    scores, patients = noise(30), [str(image // 3) for image in range(30)]
    one, again = (table({"iou": scores}, patients=patients) for _ in range(2))
    pd.testing.assert_frame_equal(one, again, check_exact=True)
    assert not np.array_equal(one["low"], table({"iou": scores}, patients=patients, seed=1)["low"])
    order = np.random.default_rng(0).permutation(30)
    shuffled = table({"iou": scores[order]}, patients=[patients[row] for row in order])
    pd.testing.assert_frame_equal(shuffled, one)


@pytest.mark.parametrize("grouped", [True, False])
def test_intervals_hold_the_mean_in_95_of_100_cohorts_if_images_are_grouped_by_patient(grouped: bool) -> None:
    generator = np.random.default_rng(7)
    held, refused = [], []
    for _ in range(150):
        sizes = generator.integers(1, 8, size=40)
        patient = np.repeat(np.arange(40), sizes)
        level = generator.normal(size=(40, 1, 4))
        scores = 3.0 + level[patient] + 0.5 * generator.normal(size=(len(patient), 1, 4))
        patients = [str(name) for name in (patient if grouped else range(len(patient)))]
        found = table({"iou": scores}, patients=patients, resamples=300).loc[("all", "iou")]
        held.append((found["low"] < 3.0) & (found["high"] > 3.0))
        refused.append((found["p_control_random"] < 0.05).any())
    coverage = np.mean(held)
    if grouped:
        assert 0.90 < coverage < 0.98
        assert np.mean(refused) < 0.1  # no explainer differs from any other
    else:
        assert coverage < 0.8
        assert np.mean(refused) > 0.1


def test_what_does_not_fit_is_refused() -> None:
    classes = np.full((5, 1), "a")
    with pytest.raises(ValueError, match=r"controls \['edges'\] are not among the explainers"):
        evidence({}, EXPLAINERS, classes, ["1"] * 5, ["edges"])
    with pytest.raises(ValueError, match="no image has a class"):
        evidence({}, EXPLAINERS, np.full((5, 1), ""), ["1"] * 5, [])
    with pytest.raises(ValueError, match="4 patients are given for 5 images"):
        evidence({}, EXPLAINERS, classes, ["1"] * 4, [])
    with pytest.raises(ValueError, match=r"iou is \(5, 1, 3\), but classes and explainers need \(5, 1, 4\)"):
        evidence({"iou": noise(5)[..., :3]}, EXPLAINERS, classes, ["1"] * 5, [])
