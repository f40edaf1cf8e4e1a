import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve
from statsmodels.stats.proportion import proportion_confint

from models.labels import NOTHING
from tasks.plan.labels import read_labels
from tasks.report.performance import GRID, Estimate, Performance, estimates, performance, roc


def drawn(images: int = 300, seed: int = 0) -> tuple[np.ndarray, list[str]]:
    generator = np.random.default_rng(seed)
    truth = generator.integers(0, 2, images)
    score = np.round(np.clip(generator.normal(0.4 + 0.2 * truth, 0.2), 0, 1), 2)  # with ties
    return np.stack([1 - score, score], 1), [("well", "ill")[index] for index in truth]


def held(probability: np.ndarray, labels: list[str], subjects: list[str] | None = None) -> Performance:
    found = performance(probability, labels, subjects or list(map(str, range(len(labels)))), ["well", "ill"], True)
    assert found is not None
    return found


def test_areas_and_curves_equal_scikit_learns() -> None:
    probability, labels = drawn()
    truth = np.array(labels) == "ill"
    ill = held(probability, labels).classes[1]
    assert ill.auc.value == pytest.approx(roc_auc_score(truth, probability[:, 1]), abs=1e-12)
    assert (ill.positive, ill.negative) == (truth.sum(), (~truth).sum())
    false, true, _ = roc_curve(truth, probability[:, 1], drop_intermediate=False)
    highest = [max(true[np.isclose(false, rate)]) for rate in (0.0, 1.0)]
    assert [ill.roc[0].value, ill.roc[-1].value] == pytest.approx(highest)
    last = np.append(np.diff(false) > 0, True)
    assert np.allclose([at.value for at in ill.roc], np.interp(GRID, false[last], true[last]))


def test_areas_with_weights_equal_scikit_learns() -> None:
    probability, labels = drawn()
    truth = np.array(labels) == "ill"
    weight = np.random.default_rng(1).integers(0, 4, len(truth)).astype(float)
    false, true = roc(probability[:, 1], truth, weight)
    assert np.trapezoid(true, false) == pytest.approx(roc_auc_score(truth, probability[:, 1], sample_weight=weight))


def test_confusion_accuracy_and_rates_by_hand() -> None:
    probability = np.array([[0.9, 0.1], [0.4, 0.6], [0.2, 0.8], [0.7, 0.3], [0.1, 0.9]])
    found = held(probability, ["well", "well", "ill", "ill", "ill"])
    assert found.confusion is not None
    assert found.confusion.tolist() == [[1, 1], [1, 2]]
    assert found.accuracy is not None
    assert found.accuracy.value == pytest.approx(3 / 5)
    assert found.classes[1].sensitivity.value == pytest.approx(2 / 3)
    assert found.classes[1].specificity.value == pytest.approx(1 / 2)


def test_calibration_by_hand() -> None:
    probability = np.array([[0.75, 0.25]] * 4)
    found = held(probability, ["well", "well", "well", "ill"])
    assert found.calibration_error.value == pytest.approx(0)
    assert [(one.probability, one.share.value, one.count) for one in found.calibration] == [
        (0.25, 0.25, 4),
        (0.75, 0.75, 4),
    ]
    assert held(probability, ["ill"] * 4).calibration_error.value == pytest.approx(0.75)


def test_images_of_one_subject_count_as_one() -> None:
    probability, labels = drawn(60)
    alone = held(probability, labels).classes[1].auc
    again = held(np.repeat(probability, 9, 0), list(np.repeat(labels, 9)), [str(n // 9) for n in range(540)])
    as_if_many = held(np.repeat(probability, 9, 0), list(np.repeat(labels, 9))).classes[1].auc
    assert again.subjects == 60
    assert again.classes[1].auc == alone  # the same subjects drawn, the same interval
    assert as_if_many.high - as_if_many.low < 0.5 * (alone.high - alone.low)


def test_an_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator, covered = np.random.default_rng(0), 0
    for _ in range(60):
        values = np.repeat(generator.normal(size=40), 5) + 0.1 * generator.normal(size=200)
        (found,) = estimates(lambda w, values=values: np.array([w @ values / w.sum()]), np.repeat(np.arange(40), 5))
        covered += found.low <= 0 <= found.high
    assert 50 <= covered <= 60


@pytest.mark.parametrize("pairs", [1, 4, 10])
def test_a_perfect_share_is_not_certain(pairs: int) -> None:
    found = held(np.array([[0.9, 0.1], [0.1, 0.9]] * pairs), ["well", "ill"] * pairs)
    wilson = proportion_confint([2 * pairs, pairs, 0], [2 * pairs, pairs, pairs], method="wilson")
    of_all, of_class, of_none = ([pytest.approx(end) for end in ends] for ends in zip(*wilson, strict=True))
    assert found.accuracy == Estimate(1.0, *of_all)
    assert found.classes[0].sensitivity == Estimate(1.0, *of_class)
    wrong = held(np.array([[0.1, 0.9], [0.9, 0.1]] * pairs), ["well", "ill"] * pairs)
    assert wrong.classes[0].sensitivity == Estimate(0.0, *of_none)


def test_a_class_that_nobody_has_is_undefined() -> None:
    found = held(np.array([[0.9, 0.1], [0.6, 0.4]]), ["well", "well"])
    assert str(found.classes[1].auc) == str(found.classes[1].sensitivity) == "undefined"
    assert np.isnan(found.best_auc)


def test_a_class_that_nobody_has_hides_no_auc() -> None:
    found = performance(
        np.array([[0.1, 0.8, 0.1], [0.1, 0.1, 0.8]]), ["b", "c"], ["1", "2"], ("a", "b", "c"), exclusive=True
    )
    assert np.isnan(found.classes[0].auc.value) and found.best_auc == 1


def test_labels_of_several_classes_and_of_none() -> None:
    probability = np.array([[0.9, 0.8], [0.1, 0.7], [0.2, 0.3], [0.5, 0.5]])
    found = performance(probability, ["mass|cyst", "cyst", "normal", ""], list("abcd"), ["mass", "cyst"], False)
    assert found is not None
    assert (found.images, found.confusion, found.accuracy) == (3, None, None)
    assert [(one.positive, one.negative) for one in found.classes] == [(1, 2), (2, 1)]
    assert performance(probability, ["", "", "normal", ""], list("abcd"), ["mass", "cyst"], False) is None
    assert performance(probability, ["normal"] * 4, list("abcd"), ["mass", "cyst"], True) is None


@pytest.mark.parametrize("label", ["lesoin", "Mass", " mass", "mass|lesoin", "mass,cyst", "||", "0"])
@pytest.mark.parametrize("exclusive", [True, False])
def test_a_label_that_is_no_class_is_unknown_and_counted(label: str, exclusive: bool) -> None:
    found = read_labels([label, "mass", "", label], ["mass", "cyst"], exclusive)
    assert found.known.tolist() == [False, True, False, False]
    assert found.truth.tolist() == [[False, False], [True, False], [False, False], [False, False]]
    assert found.unread == {label: 2}
    probability = np.array([[0.9, 0.1], [0.9, 0.1], [0.1, 0.1], [0.1, 0.1]])
    right = performance(probability, [label, "mass", "", label], list("abcd"), ["mass", "cyst"], exclusive)
    assert right is not None
    assert [(one.positive, one.negative) for one in right.classes] == [(1, 0), (0, 1)]


@pytest.mark.parametrize("label", [*NOTHING, "No Finding", "NORMAL"])
def test_only_stated_words_say_that_nothing_is_there(label: str) -> None:
    several = read_labels([label, "mass"], ["mass", "cyst"], exclusive=False)
    assert several.known.all() and not several.truth[0].any() and several.unread == {}
    assert read_labels([label, "mass"], ["mass", "cyst"], exclusive=True).unread == {label: 1}
    assert read_labels([label], [label, "mass"], exclusive=False).truth.tolist() == [[True, False]]


def test_two_classes_that_exclude_each_other_are_no_label() -> None:
    assert read_labels(["mass|cyst", "cyst"], ["mass", "cyst"], exclusive=True).unread == {"mass|cyst": 1}


def test_of_no_images_nothing_is_known() -> None:
    assert performance(np.empty((0, 2)), [], [], ["mass", "cyst"], True) is None


def test_of_one_subject_there_is_no_interval() -> None:
    probability, labels = drawn(20)
    found = held(probability, labels, ["one"] * 20)
    assert found.accuracy is not None and found.subjects == 1
    of = [found.accuracy, found.calibration_error, found.classes[1].auc, *found.classes[1].roc]
    assert all(np.isfinite(one.value) and np.isnan(one.low) and np.isnan(one.high) for one in of)
    assert str(found.accuracy) == f"{found.accuracy.value:.3f} (no interval)"


def test_a_class_of_one_subject_has_no_interval() -> None:
    probability = np.array([[0.9, 0.1], [0.1, 0.9], [0.4, 0.6], [0.8, 0.2]])
    found = held(probability, ["ill", "ill", "well", "well"], ["a", "a", "b", "c"])
    _, ill = found.classes
    assert (ill.auc.value, ill.sensitivity.value, ill.specificity.value) == (0.5, 0.5, 0.5)
    assert np.isnan([ill.auc.low, ill.sensitivity.low, ill.roc[0].high]).all()
    assert (ill.specificity.low, ill.specificity.high) == (0.0, 1.0)
