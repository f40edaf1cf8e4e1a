"""The agreement of explainers: shares by hand, ties, and a level that holds where there is nothing to agree on."""

import numpy as np
import pytest

from tasks.report.agreement import ENOUGH, Others, on_border, strongest


def others(maps: np.ndarray, subjects: list[str] | None = None) -> Others:
    """Images to compare with, of maps ``(image, explainer, place)``."""
    names = tuple("abc"[: maps.shape[1]])
    subjects = subjects or [f"s{number}" for number in range(len(maps))]
    return Others(names, np.array(subjects), np.array([strongest(one) for one in maps]), np.empty(0))


def test_the_strongest_twentieth_is_marked() -> None:
    maps = np.random.default_rng(0).normal(size=(3, 200)).astype(np.float32)
    weights = strongest(maps)
    assert (weights.sum(1) == 10).all()
    for values, weight in zip(maps, weights, strict=True):
        assert set(np.flatnonzero(weight)) == set(np.argsort(values)[-10:])


def test_places_that_tie_count_by_their_share_and_what_is_negative_counts_nothing() -> None:
    maps = np.zeros((4, 100))
    maps[0, :10] = 1  # ten places for five
    maps[1, :2] = 1  # the other three are among 98 zeros
    maps[1, 50:] = -9
    maps[3] = -1
    weights = strongest(maps)
    assert weights[0].tolist() == pytest.approx([0.5] * 10 + [0] * 90)
    assert weights[1].tolist() == pytest.approx([1.0] * 2 + [3 / 98] * 98)
    assert np.isnan(weights[2:]).all()


@pytest.mark.parametrize("constant", [1.0, np.nan])
def test_maps_that_say_nothing_agree_with_none(constant: float) -> None:
    maps = np.random.default_rng(1).random((30, 2, 100))
    own = np.stack([maps[0, 0], np.full(100, constant)])
    pairs = others(maps).pairs(own, "own")
    assert [pair.shared for pair in pairs] == ([] if np.isnan(constant) else [pytest.approx(0.05)])
    assert not any(pair.agrees for pair in pairs)


def test_what_is_shared_is_compared_with_other_images_and_not_with_background() -> None:
    generator = np.random.default_rng(2)
    maps = np.zeros((30, 2, 400))
    for own in maps:
        own[:, generator.choice(200, 20, replace=False)] = generator.random(20) + 1  # both say the same of this image
    (pair,) = others(maps).pairs(maps[0], "s0")
    assert pair.shared == pytest.approx(1) and pair.agrees
    maps[:] = maps[0]  # and the same of all images: it is not the image that they agree on
    (pair,) = others(maps).pairs(maps[0], "s0")
    assert pair.shared == pytest.approx(1) and not pair.agrees


def test_the_level_is_kept_where_two_maps_know_nothing_of_each_other() -> None:
    generator = np.random.default_rng(3)
    common = generator.random(300) > 0.7  # all maps are of the same small part of the image
    agreeing = 0
    for _ in range(400):
        maps = generator.random((31, 2, 300)) * common
        agreeing += others(maps[1:]).pairs(maps[0], "own")[0].agrees
    assert 0.02 < agreeing / 400 < 0.09


@pytest.mark.parametrize(("images", "judged"), [(ENOUGH + 1, True), (ENOUGH, False), (1, False)])
def test_of_few_images_nothing_is_judged(images: int, judged: bool) -> None:
    maps = np.random.default_rng(4).random((images, 3, 100))
    pairs = others(maps).pairs(maps[0], "s0")
    assert [(pair.one, pair.other) for pair in pairs] == [("a", "b"), ("a", "c"), ("b", "c")]
    assert {np.isfinite(pair.beyond) for pair in pairs} == {judged}


def test_images_of_the_same_subject_are_no_others() -> None:
    maps = np.random.default_rng(5).random((40, 2, 100))
    (pair,) = others(maps, ["own"] * 30 + ["else"] * 10).pairs(maps[0], "own")
    assert np.isnan(pair.beyond)


def test_an_even_map_has_as_much_on_each_side_as_its_share() -> None:
    maps = np.ones((3, 20, 30))
    maps[1, 2:] = 0  # a bar along the first side
    maps[2] = 0
    found = on_border(maps)
    assert found[0] == pytest.approx([1] * 4)
    assert found[1] == pytest.approx([10, 0, 1, 1])
    assert np.isnan(found[2]).all()
