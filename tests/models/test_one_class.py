"""Results of a cohort of one class, or of one subject: no number where there is none, and it is said."""

from dataclasses import replace

import numpy as np
import pytest

from models.explainers.base import MAPS
from models.outputs import Frame
from models.prediction import LOGIT, TARGET_CLASS
from models.results import RCV, TCAV, Prototypes, Result, Shortcuts, SimilarCases
from tests.models.cohorts import Cohort
from tests.models.test_concepts import ACTIVATIONS, GRADIENTS

IMAGES, CONCEPT = 80, 24


def cohort(*, subjects: int, explained: tuple[str, ...] = ("first",)) -> Cohort:
    """All images are predicted and labelled as class a, but for those that show a concept, which are labelled by it."""
    generator = np.random.default_rng(0)
    activations = generator.normal(size=(IMAGES, 12)).astype(np.float32)
    activations[:CONCEPT, 0] += 3
    arrays = {
        "embedding": activations,
        ACTIVATIONS: activations,
        GRADIENTS: generator.normal(size=(IMAGES, 1, 12)).astype(np.float32),
        TARGET_CLASS: np.zeros((IMAGES, 1), np.int32),
        LOGIT: np.tile(np.float32([2, 1]), (IMAGES, 1)),
        MAPS: np.abs(generator.normal(size=(IMAGES, 1, 1, 8, 8))).astype(np.float32),
    }
    ids = [f"image-{row}" for row in range(IMAGES)]
    owners = [f"subject-{row % subjects}" for row in range(IMAGES)]
    frame = Frame(("a", "b"), explained, ("saliency",), ("grey",), (8, 8), "softmax")
    labels = ["a|bright"] * CONCEPT + ["a"] * (IMAGES - CONCEPT)
    measures = {"age": 9.0 * activations[:, 0]}
    return Cohort(frame, ids, labels, owners, np.ones(IMAGES, bool), arrays, measures, concepts=("bright",))


BY_MAP = Shortcuts(explainer="saliency", clusters=3)
BRIGHT = TCAV(concepts=("bright",), classifier="mean_difference")
AGE = RCV(measures=("age",))


@pytest.mark.parametrize(
    ("result", "name", "said"),
    [
        (Prototypes(), "prototype_share", "class 'b' has 0 of 5 prototypes and 0 of 5 criticisms"),
        (BRIGHT, "tcav_score", "tcav: class 'b' has no score, since it was explained of no image of the class"),
        (AGE, "rcv_br", "rcv: class 'b' has no score, since it was explained of no image of the class"),
    ],
    ids=["prototypes", "tcav", "rcv"],
)
def test_a_class_that_no_image_has_gets_no_number(
    result: Result, name: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    values = result.compute(cohort(subjects=40))[name].reshape(2, -1)  # by class
    assert np.isfinite(values[0]).all() and np.isnan(values[1]).all() and said in caplog.text


@pytest.mark.parametrize("result", [BRIGHT, AGE], ids=["tcav", "rcv"])
def test_a_class_that_the_target_leaves_out_is_not_missed(result: Result, caplog: pytest.LogCaptureFixture) -> None:
    result.compute(cohort(subjects=40, explained=("a",)))
    assert not caplog.records


def test_cases_of_one_label_are_found_as_well_by_chance() -> None:
    one = cohort(subjects=40)
    found = SimilarCases().compute(replace(one, labels=["a"] * IMAGES))
    assert (found["similar_precision"] == 1).all() and (found["similar_chance"] == 1).all()
    assert (found["similar_other_label"] == -1).all() and np.isnan(found["similar_other_label_cosine"]).all()


def test_clusters_of_one_label_cannot_hint_at_a_shortcut(caplog: pytest.LogCaptureFixture) -> None:
    found = BY_MAP.compute(replace(cohort(subjects=40), labels=["a"] * IMAGES))
    assert np.isnan(found["shortcut_p"]).all() and not found["shortcut_flags"].any()
    assert (found["shortcut_error"] == 0).all()
    assert (
        "result shortcuts: no cluster can hint at a shortcut, since labels and covariates do not differ" in caplog.text
    )


@pytest.mark.parametrize(
    ("result", "numbers", "said"),
    [
        (Prototypes(), "prototype_witness", "class 'a' has 1 of 5 prototypes and 0 of 5 criticisms"),
        (SimilarCases(), "similar_precision similar_chance similar_cosine", "80 of 80 images have fewer than 5"),
        (BY_MAP, "shortcut_p shortcut_label_difference shortcut_alikeness", "no cluster can hint at a shortcut"),
        (BRIGHT, "tcav_score tcav_p tcav_direction", "'bright' is no concept and is not scored: at chance"),
        (AGE, "rcv_br rcv_r2 rcv_p rcv_direction", "'age' is no concept and is not scored: too few subjects"),
    ],
    ids=["prototypes", "similar_cases", "shortcuts", "tcav", "rcv"],
)
def test_one_subject_gives_no_number(result: Result, numbers: str, said: str, caplog: pytest.LogCaptureFixture) -> None:
    found = result.compute(cohort(subjects=1))
    assert all(np.isnan(found[name]).all() for name in numbers.split()) and said in caplog.text
    rows = [values for name, values in found.items() if name.endswith(("_image", "_criticism", "_label"))]
    assert all((values < 0).sum() >= values.size - 1 for values in rows)  # one prototype
