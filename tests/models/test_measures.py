"""Regression concept vectors, on cohorts in memory."""

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy import stats
from skimage.measure import regionprops
from sklearn.linear_model import Ridge
from sklearn.metrics import r2_score
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from models.errors import ConfigurationError
from models.explainers.pooled import PooledActivations
from models.outputs import Frame, joined, shape_of
from models.prediction import IMAGE, MASK, TARGET_CLASS
from models.results import RCV
from models.results.mask_measures import measure_mask, names_of
from models.results.rcv import MeasureFlag
from models.results.ridge import regress
from tests.models.cohorts import Cohort
from tests.models.networks import wrap
from tests.models.test_concepts import ACTIVATIONS, GRADIENTS, SHAPES, curved

FEATURES = 32


def planted(seed: int, images: int = 120) -> Cohort:
    """The target heeds a measure that the first feature tells; the second tells one that it does not heed.

    The third feature tells one that the target falls with; another measure is the first one shuffled. Two images each
    are of one subject.
    """
    generator = np.random.default_rng(seed)
    activations = generator.normal(size=(images, FEATURES)).astype(np.float32)
    gradients = generator.normal(size=(images, 1, FEATURES)).astype(np.float32)
    gradients[:, 0, 0] += 2
    gradients[:, 0, 2] -= 1.5
    heeded, unheeded, opposed = activations[:, :3].T + 0.3 * generator.normal(size=(3, images))
    measures = {
        "heeded": heeded * 7 + 50,
        "unheeded": unheeded,
        "opposed": opposed,
        "shuffled": generator.permutation(heeded),
    }
    frame = Frame(("a", "b"), ("first",), (), ("grey",), (6, 8), "softmax")
    ids = [f"image-{row}" for row in generator.permutation(images)]
    arrays = {
        ACTIVATIONS: activations,
        GRADIENTS: gradients,
        TARGET_CLASS: np.repeat([[0], [1]], [images - 20, 20], axis=0).astype(np.int32),
        MASK: (generator.random((images, 6, 8)) < 0.5).astype(np.uint8),
        IMAGE: generator.normal(size=(images, 1, 6, 8)).astype(np.float32),
    }
    subjects = [f"subject-{row // 2}" for row in range(images)]
    return Cohort(frame, ids, [""] * images, subjects, np.ones(images, bool), arrays, measures)


FOUR = RCV(measures=("unheeded", "opposed", "shuffled", "heeded"))


def drawn(images: int = 90, seed: int = 0) -> tuple[NDArray[np.float64], NDArray[np.float64], list[str]]:
    generator = np.random.default_rng(seed)
    vectors = generator.normal(size=(images, 12)) * 10.0 ** generator.integers(-3, 3, 12) + 4
    measure = vectors[:, 3] / vectors[:, 3].std() + generator.normal(size=images)
    return vectors, measure, [f"subject-{row}" for row in range(images)]


def test_a_regression_is_that_of_scikit_learn_on_folds_of_subjects() -> None:
    vectors, measure, _ = drawn()
    owners = np.random.default_rng(1).integers(0, 40, 90)
    found = regress(vectors, measure, [f"subject-{owner}" for owner in owners])
    first = {owner: number for number, owner in enumerate(dict.fromkeys(owners.tolist()))}
    folds = PredefinedSplit([first[owner] % 5 for owner in owners.tolist()])
    model = make_pipeline(StandardScaler(), Ridge(alpha=12))
    told = cross_val_predict(model, vectors, measure, cv=folds)
    np.testing.assert_allclose(found.r2, r2_score(measure, told), rtol=1e-9)
    model.fit(vectors, measure)
    expected = model[1].coef_ / model[0].scale_
    np.testing.assert_allclose(found.direction, expected / np.linalg.norm(expected), rtol=1e-7)


def test_an_interval_is_that_of_a_bootstrap() -> None:
    vectors, measure, subjects = drawn(200)
    found = regress(vectors, measure, subjects)
    folds = PredefinedSplit(np.arange(200) % 5)
    told = cross_val_predict(make_pipeline(StandardScaler(), Ridge(alpha=12)), vectors, measure, cv=folds)
    expected = stats.bootstrap(
        (measure, told), r2_score, paired=True, vectorized=False, method="percentile", n_resamples=2000, rng=0
    ).confidence_interval
    np.testing.assert_allclose((found.low, found.high), expected, atol=0.02)
    assert found.low < found.r2 < found.high


@pytest.mark.parametrize("images_of_a_subject", [1, 5])
def test_p_is_below_five_percent_in_five_percent_where_there_is_nothing_to_tell(images_of_a_subject: int) -> None:
    generator = np.random.default_rng(0)
    owners = np.repeat(np.arange(40), images_of_a_subject)
    found = []
    for _ in range(60):
        of_subject = generator.normal(size=(40, 13)) * 3  # images of a subject are alike, and so are their measures
        values = of_subject[owners] + generator.normal(size=(len(owners), 13))
        found.append(regress(values[:, :12], values[:, 12], [f"subject-{owner}" for owner in owners]).p)
    assert 0.3 < np.mean(found) < 0.7 and np.mean(np.array(found) < 0.05) < 0.15


def test_vectors_that_are_all_the_same_tell_nothing() -> None:
    _, measure, subjects = drawn()
    found = regress(np.full((90, 4), 0.1, np.float32), measure, subjects)
    assert not found.direction.any() and found.r2 <= 0


def test_a_planted_measure_ranks_first_and_a_shuffled_one_is_no_concept_over_seeds() -> None:
    first, shuffled = 0, 0
    for seed in range(20):
        found = FOUR.compute(planted(seed))
        br = found["rcv_br"][:, 0]
        first += int(np.nanargmax(np.abs(br))) == 3
        assert br[3] > 0 > br[1] and abs(br[0]) < min(br[3], -br[1]) / 2
        assert found["rcv_flags"][[0, 1, 3]].tolist() == [0, 0, 0]
        shuffled += int(found["rcv_flags"][2] == 0)
        assert np.isnan(br[2]) == bool(found["rcv_flags"][2])
        assert found["rcv_direction"][3, 0] > 0.85
    assert first == 20 and shuffled <= 2


def test_br_is_the_formula() -> None:
    cohort = planted(3)
    found = FOUR.compute(cohort)
    for index, rows in enumerate((slice(0, 100), slice(100, 120))):
        sensitivity = cohort.arrays[GRADIENTS][rows, 0] @ found["rcv_direction"][3]
        np.testing.assert_allclose(found["rcv_sensitivity"][3, index], np.mean(sensitivity), rtol=1e-4)
        br = found["rcv_r2"][3] * np.mean(sensitivity) / np.std(sensitivity)
        np.testing.assert_allclose(found["rcv_br"][3, index], br, rtol=1e-4)


def test_an_image_counts_for_the_class_that_its_label_names() -> None:
    cohort = planted(3)
    labels = ["a"] * 50 + ["b"] * 50 + [""] * 20
    found = FOUR.compute(replace(cohort, labels=labels))
    sensitivity = cohort.arrays[GRADIENTS][:50, 0] @ found["rcv_direction"][3]
    np.testing.assert_allclose(found["rcv_sensitivity"][3, 0], np.mean(sensitivity), rtol=1e-4)


def test_a_result_is_the_same_to_the_bit_in_any_order_and_any_shards() -> None:
    result = RCV(measures=("heeded", "unheeded"), of_mask=("area", "intensity_mean"))
    cohort = planted(1)
    order = np.random.default_rng(3).permutation(120)
    found, again = result.compute(cohort), result.compute(replace(cohort.taken(order), shard=7))
    for name in found:
        expected = found[name][order] if name == "rcv_value" else found[name]
        assert expected.tobytes() == again[name].tobytes(), name


def test_it_returns_what_it_declares() -> None:
    cohort = planted(2)
    result = RCV(measures=("heeded",), of_mask=("area", "intensity_max"))
    (features,) = PooledActivations().declare(cohort.frame, wrap(curved(2), shape=SHAPES[2]))[0].axes
    found = result.compute(cohort)
    declared = joined(result.declare(cohort.frame))
    assert list(found) == list(declared)
    for name, output in declared.items():
        whole = output.model_copy(update={"axes": (*output.axes, features.model_copy(update={"labels": FEATURES}))})
        images = (120,) * output.per_image
        assert found[name].shape == (*images, *shape_of(whole, cohort.frame)) and found[name].dtype == output.dtype


def test_images_without_the_measure_are_left_out_and_counted() -> None:
    cohort = planted(0)
    gaps = cohort.measures["heeded"].copy()
    gaps[::3] = np.nan
    explained = np.arange(120) != 1
    cohort = replace(cohort, measures={"gaps": gaps}, explained=explained)
    found = RCV(measures=("gaps",)).compute(cohort)
    assert (found["rcv_images"].tolist(), found["rcv_missing"].tolist()) == ([79], [40])
    alone = cohort.taken(np.flatnonzero(explained & np.isfinite(gaps)))
    expected = RCV(measures=("gaps",)).compute(alone)
    assert found["rcv_r2"] == expected["rcv_r2"] and (found["rcv_direction"] == expected["rcv_direction"]).all()
    np.testing.assert_array_equal(found["rcv_value"][:, 0], np.where(explained, gaps, np.nan))


@pytest.mark.parametrize(
    ("kept", "subjects", "value", "flag", "said"),
    [
        (19, 19, None, MeasureFlag.TOO_FEW_IMAGES, "too few images"),
        (40, 4, None, MeasureFlag.TOO_FEW_SUBJECTS, "too few subjects"),
        (40, 40, 61.5, MeasureFlag.CONSTANT, "constant, 61.5 in all images"),
        (20, 5, None, MeasureFlag(0), ""),
    ],
    ids=["19 images", "4 subjects", "constant", "20 images of 5"],
)
def test_what_is_no_concept_is_said_and_not_scored(
    kept: int, subjects: int, value: float | None, flag: MeasureFlag, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    cohort = planted(0).taken(np.arange(kept))
    measure = cohort.arrays[ACTIVATIONS][:, 0] * 9.0 if value is None else np.full(kept, value)
    of_class = replace(cohort.frame, targets=("a",))
    cohort = replace(
        cohort, subjects=[f"s{row % subjects}" for row in range(kept)], measures={"age": measure}, frame=of_class
    )
    found = RCV(measures=("age",)).compute(cohort)
    assert found["rcv_flags"].tolist() == [flag] and found["rcv_images"].tolist() == [kept]
    for name in ("r2", "r2_low", "p"):
        assert np.isnan(found[f"rcv_{name}"]).all() == bool(flag), name
    if flag:
        assert np.isnan(found["rcv_br"]).all() and np.isnan(found["rcv_direction"]).all()
    told = [record.getMessage() for record in caplog.records]
    assert told == [f"rcv: 'age' is no concept and is not scored: {said}"] * bool(flag)


def test_a_layer_whose_gradient_is_the_same_for_all_images_has_no_br(caplog: pytest.LogCaptureFixture) -> None:
    cohort = planted(0)
    same = np.broadcast_to(cohort.arrays[GRADIENTS][-1], cohort.arrays[GRADIENTS].shape)
    found = FOUR.compute(replace(cohort, arrays=cohort.arrays | {GRADIENTS: same}))
    assert np.isnan(found["rcv_br"]).all() and np.isfinite(found["rcv_sensitivity"][3]).all()
    assert "name an earlier layer in pooled_activations" in caplog.text


def test_of_many_images_some_are_regressed_and_all_are_scored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("models.results.rcv._MOST", 60)
    cohort = planted(4)
    found = FOUR.compute(cohort)
    assert found["rcv_images"].tolist() == [120] * 4 and found["rcv_flags"][3] == 0
    sensitivity = cohort.arrays[GRADIENTS][:100, 0] @ found["rcv_direction"][3]
    np.testing.assert_allclose(found["rcv_sensitivity"][3, 0], np.mean(sensitivity), rtol=1e-4)
    again = FOUR.compute(cohort.taken(np.arange(120)[::-1]))
    assert found["rcv_direction"].tobytes() == again["rcv_direction"].tobytes()


@pytest.mark.parametrize("grid", [(9, 12), (5, 9, 12)])
def test_masks_are_measured_as_scikit_image_and_numpy_do(grid: tuple[int, ...]) -> None:
    generator = np.random.default_rng(0)
    mask = generator.random(grid) < 0.4
    image = generator.normal(size=(2, *grid)).astype(np.float32)
    shapes: tuple[Any, ...] = ("area", "axis_major_length", "axis_minor_length", "solidity", "extent")
    shapes += ("equivalent_diameter_area", *(("eccentricity", "perimeter") if len(grid) == 2 else ()))
    intensities: tuple[Any, ...] = ("intensity_mean", "intensity_std", "intensity_min", "intensity_max")
    found = measure_mask(mask, image, (*shapes, *intensities))
    (region,) = regionprops(mask.astype(int), np.moveaxis(image.astype(float), 0, -1))
    expected = [getattr(region, name) for name in shapes]
    expected += [value for name in intensities for value in getattr(region, name)]
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found[0] == mask.sum()
    names = names_of((*shapes, *intensities), ("t1", "t2"))
    assert (
        len(names) == len(found)
        and names[0] == "mask_area"
        and names[-2:]
        == (
            "mask_intensity_max_t1",
            "mask_intensity_max_t2",
        )
    )


@pytest.mark.parametrize("grid", [(9, 12), (5, 9, 12)])
def test_a_mask_that_is_empty_or_too_small_has_no_measure(grid: tuple[int, ...]) -> None:
    mask, image = np.zeros(grid, bool), np.ones((1, *grid), np.float32)
    assert np.isnan(measure_mask(mask, image, ("area", "intensity_mean"))).all()
    mask.flat[7] = True
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        area, solidity, mean = measure_mask(mask, image, ("area", "solidity", "intensity_mean"))
    assert (area, mean) == (1, 1) and (np.isnan(solidity) or solidity == 1)


def test_the_area_of_a_mask_is_what_is_stored() -> None:
    cohort = planted(0)
    cohort.arrays[MASK][5] = 255  # no mask
    cohort.arrays[MASK][6] = 0
    found = RCV(of_mask=("area",)).compute(cohort)
    expected = (cohort.arrays[MASK] == 1).sum((1, 2)).astype(float)
    expected[[5, 6]] = np.nan
    np.testing.assert_array_equal(found["rcv_value"][:, 0], expected)
    assert found["rcv_missing"].tolist() == [2]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({}, "it has no measure: name columns of cohort.measures"),
        ({"measures": ["mask_area"], "of_mask": ["area"]}, "it has the measure mask_area twice"),
        ({"measures": [f"m{number}" for number in range(101)]}, "it has 101 measures, and of more than 100 none"),
    ],
)
def test_measures_that_cannot_be_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RCV(**given)


def test_a_measure_of_pictures_is_refused_of_volumes() -> None:
    frame = replace(planted(0).frame, grid=(3, 6, 8))
    with pytest.raises(ConfigurationError, match="rcv: eccentricity is a measure of pictures"):
        RCV(of_mask=("area", "eccentricity")).declare(frame)
