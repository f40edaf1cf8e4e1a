"""What a model says of images, and whether labels agree."""

import numpy as np

from tasks.plan.labels import read_labels
from tasks.plan.predictions import entropy, held_against

CLASSES = ("a", "b")


def test_the_likeliest_class_is_said_where_classes_exclude_each_other() -> None:
    probability = np.array([[0.75, 0.25], [0.5, 0.5], [0.0, 1.0], [0.25, 0.75]])
    found = held_against(read_labels(["a", "b", "", "c"], CLASSES, exclusive=True), probability, "softmax")
    assert found.called.tolist() == [[True, False], [True, False], [False, True], [False, True]]
    assert found.known.tolist() == [True, True, False, False]
    assert found.wrong.tolist() == [False, True, False, False]
    assert found.certainty.tolist() == [0.75, 0.5, 1.0, 0.75]
    assert np.array_equal(found.entropy, entropy(probability, "softmax"))


def test_each_class_is_said_by_itself_where_they_do_not() -> None:
    probability = np.array([[0.9, 0.8], [0.9, 0.2], [0.1, 0.2], [0.1, 0.2]])
    found = held_against(read_labels(["a|b", "b", "none", "b"], CLASSES, exclusive=False), probability, "sigmoid")
    assert found.called.tolist() == [[True, True], [True, False], [False, False], [False, False]]
    assert found.wrong.tolist() == [False, True, False, True]
    assert np.allclose(found.certainty, [0.8, 0.8, 0.8, 0.8])


def test_a_regression_is_never_wrong() -> None:
    found = held_against(read_labels(["a", ""], CLASSES, exclusive=True), None, "identity")
    assert not found.wrong.any() and not found.known.any() and np.isnan(found.certainty).all()
