import numpy as np
import pytest
import xarray as xr

from tasks.report.agreement import Pair
from tasks.report.words import findings, sentences

UNKNOWN = np.full((4, 4), np.nan)


def image(maps: dict[str, np.ndarray], mask: np.ndarray | None = None, affine: np.ndarray = UNKNOWN) -> xr.Dataset:
    shape = next(iter(maps.values())).shape
    found = xr.Dataset(
        {
            "image": (("channel", "y", "x"), np.zeros((1, *shape))),
            "attribution": (("target", "explainer", "y", "x"), np.stack(list(maps.values()))[None]),
            "affine": (("world", "voxel"), affine),
        },
        {"explainer": list(maps), "voxel": list("zyx1")},
    )
    return found if mask is None else found.assign(mask=(("y", "x"), mask.astype(np.uint8)))


def corner(value: float = 1.0) -> np.ndarray:
    values = np.zeros((9, 9))
    values[:2, 7:] = value
    return values


def test_where_the_evidence_of_which_explainer_lies() -> None:
    mask = np.zeros((9, 9), bool)
    mask[:2, 7] = True
    elsewhere = np.full((9, 9), 0.5)
    elsewhere[4, 4] = 2
    found = findings(image({"a": corner(), "b": corner(3) - 0.5, "c": elsewhere}, mask), 0, ["a", "b", "c"])
    assert found is not None and found.mask is not None
    assert found.mask.held == {"a": 0.5, "b": 0.5, "c": pytest.approx(1 / 42)}
    assert found.mask.size == 2 / 81
    assert [(place.name, place.size, place.held) for place in found.places] == [
        ("the upper right corner of the image", 1 / 9, {"a": 1.0, "b": 1.0}),
        ("the centre of the image", 1 / 9, {"c": pytest.approx(6 / 42)}),
    ]
    text = sentences("lesion", 0.97, "", None, found)
    assert (
        "In the upper right corner of the image, 11 % of all, lie the peaks of a (100 % of its evidence) and b" in text
    )
    assert "In the centre of the image, 11 % of all, lies the peak of c (14 % of its evidence)." in text
    assert "In the mask, 2.5 % of all, lie 50 % of the evidence of a, 50 % of that of b and 2.4 % of that of c." in text


def test_a_corner_is_named_also_by_the_patient() -> None:
    affine = np.zeros((4, 4))
    affine[1, 1], affine[0, 2], affine[2, 0] = -1, -1, 1  # y towards posterior, x towards left
    found = findings(image({"a": corner()}, affine=affine), 0, ["a"])
    assert found is not None
    assert found.places[0].name == "the upper right corner of the image (the patient's left anterior)"


def test_what_is_not_evidence() -> None:
    maps = {"nothing": np.zeros((9, 9)), "against": -corner(), "missing": corner(np.nan)}
    assert findings(image(maps), 0, list(maps)) is None
    found = findings(image(maps | {"a": corner()}, np.zeros((9, 9), bool)), 0, [*maps, "a"])
    assert found is not None
    assert (found.mask, found.without) == (None, ["nothing", "against", "missing"])
    assert "nothing, against and missing show no evidence." in sentences("lesion", 0.97, "", None, found)


def said(*pairs: Pair) -> str:
    found = findings(image({"a": corner()}), 0, ["a"], pairs)
    assert found is not None
    return sentences("lesion", 0.97, "normal", False, found)


def test_sentences_say_which_explainers_agree_and_judge_no_case_as_a_whole() -> None:
    text = said(Pair("a", "b", 0.3, 0.97), Pair("a", "c", 0.92, 1.0), Pair("b", "c", 0.08, 0.4))
    assert text.startswith("The model says lesion, almost certainly (97 %), but the label is normal.")
    assert "These agree on what is strongest: a with c (92 % shared) and a with b (30 %)." in text
    assert "These share no more than maps of different images may: b with c (8.0 % shared)." in text
    assert "relied" not in text


def test_few_images_and_many_pairs_have_sentences_of_their_own() -> None:
    assert "is not judged: there are too few maps of other images" in said(Pair("a", "b", 0.9, np.nan))
    many = [Pair("a", str(number), 0.5, 0.5 + 0.1 * (number % 6)) for number in range(8)]
    assert "1 of 8 pairs of explainers agree." in said(*many)
    assert "agree" not in said()


def test_sentences_are_honest_where_there_is_nothing() -> None:
    assert sentences("lesion", 0.51, "", None, None) == (
        "The model says lesion, with much doubt (51 %). No map shows evidence for it."
    )


@pytest.mark.parametrize(
    ("probability", "text"), [(0.97, "97 %"), (0.996, "99.6 %"), (0.99999, "over 99.9 %"), (1.0, "100 %")]
)
def test_no_probability_below_1_is_called_100_percent(probability: float, text: str) -> None:
    assert sentences("lesion", probability, "", None, None).startswith(
        f"The model says lesion, almost certainly ({text})."
    )
