"""Similar cases are those that scikit-learn and plain loops find, whatever the blocks are."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.neighbors import NearestNeighbors

from models.errors import ConfigurationError
from models.explainers.base import MAPS
from models.outputs import Axis, Frame, Output, joined
from models.results import SimilarCases, similar_cases
from models.results.nearest import BLOCK, directions, nearest
from models.results.retrieval import Cases
from tests.models.test_declarations import check

FRAME = Frame(("a", "b"), ("first",), ("one", "two"), ("grey",), (40, 24), "softmax")
REGRESSION = Frame(("a",), ("first",), ("one",), ("grey",), (40, 24), "identity")


@dataclass(frozen=True)
class StoredVectors:
    arrays: dict[str, NDArray[Any]]
    explained: NDArray[np.bool_]
    subjects: Sequence[str]
    labels: Sequence[str]
    frame: Frame = FRAME
    covariates: dict[str, Sequence[str]] = field(default_factory=dict)
    concepts: Sequence[str] = ()

    @property
    def ids(self) -> Sequence[str]:
        return [f"id-{row}" for row in range(len(self.explained))]

    def blocks(self, *names: str) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        for start in range(0, len(self.explained), 7):
            rows = slice(start, min(start + 7, len(self.explained)))
            yield rows, {name: self.arrays[name][rows] for name in names}


def planted(images: int = 60, seed: int = 0, frame: Frame = FRAME) -> StoredVectors:
    """Three clusters, which labels follow but for some; two images a subject; some images are not compared."""
    drawn = np.random.default_rng(seed)
    cluster = drawn.integers(3, size=images)
    vectors = 4 * np.eye(3, 16)[cluster] + drawn.normal(size=(images, 16))
    vectors = (vectors * 10.0 ** drawn.integers(-20, 15, (images, 1))).astype(np.float32)
    labels = [f"l{one}" for one in np.where(drawn.random(images) < 0.2, drawn.integers(3, size=images), cluster)]
    explained = np.ones(images, bool)
    explained[5], vectors[5], vectors[6], vectors[8] = False, np.nan, 0, np.inf
    vectors[20] = vectors[30] = vectors[40]  # equally near
    labels[10] = labels[11] = ""
    return StoredVectors({"embedding": vectors}, explained, [f"s{row // 2}" for row in range(images)], labels, frame)


def by_loop(stored: StoredVectors, count: int) -> dict[str, NDArray[Any]]:
    vectors = stored.arrays["embedding"].astype(float)
    rows = len(vectors)
    found: dict[str, NDArray[Any]] = {name: np.full(rows, -1) for name in ("same_label", "other_label")}
    found |= {"image": np.full((rows, count), -1), "chance": np.full(rows, np.nan)}
    found |= {name: np.full((rows, count), np.nan) for name in ("cosine", "precision")}
    there = [row for row in range(rows) if np.isfinite(vectors[row]).all() and vectors[row].any()]
    for row in there:
        others = [one for one in there if stored.subjects[one] != stored.subjects[row]]
        cosine = {
            one: round(vectors[row] @ vectors[one] / np.linalg.norm(vectors[row]) / np.linalg.norm(vectors[one]), 9)
            for one in others
        }
        near = sorted(others, key=lambda one: (-cosine[one], one))
        found["image"][row, : len(near)] = near[:count]
        found["cosine"][row, : len(near)] = [cosine[one] for one in near[:count]]
        own = stored.labels[row]
        labelled = [one for one in others if stored.labels[one]]
        if own and labelled:
            same = [one for one in near if stored.labels[one] == own]
            other = [one for one in near if stored.labels[one] not in ("", own)]
            found["same_label"][row], found["other_label"][row] = (part[0] if part else -1 for part in (same, other))
            found["chance"][row] = len(same) / len(labelled)
            for rank in range(count):
                known = [stored.labels[one] for one in near[: rank + 1] if stored.labels[one]]
                found["precision"][row, rank] = known.count(own) / len(known) if known else np.nan
    return found


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_a_plain_loop(seed: int) -> None:
    stored = planted(seed=seed)
    result = SimilarCases(neighbours=4)
    found, expected = result.compute(stored), by_loop(stored, 4)
    for name, values in expected.items():
        if values.dtype.kind == "i":
            assert np.array_equal(found[f"similar_{name}"], values), name
        else:
            np.testing.assert_allclose(found[f"similar_{name}"], values, atol=1e-6, err_msg=name)
    assert (found["similar_image"][[5, 6, 8]] == -1).all()
    assert found["similar_image"][20, 0] == 30 and found["similar_image"][30, 0] == 20
    assert np.nanmean(found["similar_precision"]) > np.nanmean(found["similar_chance"]) + 0.2
    declared = joined(result.declare(FRAME))
    check({name: torch.from_numpy(values) for name, values in found.items()}, declared, FRAME, 60)
    assert all(found[name].dtype == output.dtype for name, output in declared.items())


def test_neighbours_are_those_of_scikit_learn() -> None:
    vectors = np.random.default_rng(1).normal(size=(300, 24)).astype(np.float32)
    apart, near = NearestNeighbors(n_neighbors=6, algorithm="brute", metric="cosine").fit(vectors).kneighbors()
    ((rows, cosines),) = nearest(directions(vectors), [(6, differ)], 64)
    assert np.array_equal(rows, near)
    np.testing.assert_allclose(cosines, 1 - apart, atol=1e-6)


NO_FAISS = "faiss is not installed: `search: candidates` (the extra `faiss`) is NOT tested"


@pytest.mark.parametrize("seed", range(3))
def test_candidates_of_all_lists_are_ranked_as_a_plain_loop_ranks(seed: int) -> None:
    pytest.importorskip("faiss", reason=NO_FAISS)
    stored = planted(seed=seed)
    found, expected = SimilarCases(neighbours=4, search="candidates").compute(stored), by_loop(stored, 4)
    for name in ("image", "same_label", "other_label"):
        assert np.array_equal(found[f"similar_{name}"], expected[name]), name
    np.testing.assert_allclose(found["similar_cosine"], expected["cosine"], atol=1e-6)


def test_candidates_hold_most_neighbours_and_none_of_the_same_subject() -> None:
    pytest.importorskip("faiss", reason=NO_FAISS)
    from models.results.candidates import nearest_candidates

    drawn = np.random.default_rng(0)
    centre, cluster = 3 * drawn.normal(size=(20, 32)), drawn.integers(20, size=4000)
    unit = directions(centre[cluster] + drawn.normal(size=(4000, 32)))
    subjects = np.where(np.arange(4000) < 300, "one with many", np.arange(4000).astype(str))
    cases = Cases.of(subjects, (cluster % 3).astype(str))
    asked = [(5, cases.are_of_others), (1, cases.have_same_label), (1, cases.have_other_label)]
    found = nearest_candidates(unit, cases, asked)
    for (rows, cosines), (known, exact), (_, pairs) in zip(found, nearest(unit, asked), asked, strict=True):
        assert (rows >= 0).all() and pairs(np.arange(4000), rows).all()
        assert (np.sort(rows) == np.sort(known)).mean() > 0.9 and (exact - cosines).max() < 0.2
        assert np.array_equal(cosines[rows == known], exact[rows == known])
    assert all(np.array_equal(*both) for both in zip(nearest_candidates(unit, cases, asked)[0], found[0], strict=True))


def test_it_is_said_how_long_the_exact_search_of_many_images_takes(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(similar_cases, "MANY", 10)
    monkeypatch.setattr(similar_cases, "_SECONDS", 10.0)
    SimilarCases().compute(planted())
    assert "57 images are compared with one another, which takes 1.4e+02 h of a core; `search" in caplog.text


def test_candidates_are_refused_without_faiss(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(similar_cases, "find_spec", lambda name: None)
    outputs = {"embedding": Output(name="embedding", dims=("image_id", "feature"), kind="vector", long_name="")}
    SimilarCases().check(outputs)
    with pytest.raises(ConfigurationError, match=r"needs faiss: `pip install cohortlens\[faiss\]`"):
        SimilarCases(search="candidates").check(outputs)


def differ(own: slice, others: slice) -> NDArray[np.bool_]:
    return np.arange(own.start, own.stop)[:, None] != np.arange(others.start, others.stop)


@pytest.mark.parametrize("features", [1, 3, 100, 1000])
def test_blocks_and_order_change_no_bit(features: int) -> None:
    drawn = np.random.default_rng(2)
    vectors = drawn.normal(size=(50, features)).astype(np.float32).repeat(2, axis=0)
    vectors[1::4] *= np.float32(1.7)  # nearly the same direction, but for the last bits
    unit = directions(vectors)
    expected = nearest(unit, [(3, differ)], BLOCK)[0]
    for block in (1, 7, 32, 99):
        for found, known in zip(nearest(unit, [(3, differ)], block)[0], expected, strict=True):
            assert np.array_equal(found, known), block
    turned = drawn.permutation(features)
    assert np.array_equal(nearest(np.ascontiguousarray(unit[:, turned]), [(3, differ)], 13)[0][1], expected[1])


def test_maps_of_an_explainer_are_compared_on_few_places() -> None:
    stored = planted()
    maps = np.full((60, 1, 2, 40, 24), np.nan, np.float32)
    squares = stored.arrays["embedding"].reshape(60, 4, 4)
    maps[:, 0, 1] = squares.repeat(10, axis=1).repeat(6, axis=2)
    by_map = StoredVectors({MAPS: maps}, stored.explained, stored.subjects, stored.labels)
    found = SimilarCases(of=MAPS, explainer="two", label="alike").compute(by_map)
    small = torch.nn.functional.adaptive_avg_pool2d(torch.from_numpy(maps[:, 0, 1]), 16).numpy().reshape(60, -1)
    vectors = StoredVectors({"embedding": small}, stored.explained, stored.subjects, stored.labels)
    assert np.array_equal(found["alike_image"], by_loop(vectors, 5)["image"])
    assert (found["alike_image"][0] >= 0).all()


@pytest.mark.parametrize("images", [0, 1, 4, 8])
def test_too_few_images_of_other_subjects_leave_places_empty_and_it_is_said(
    images: int, caplog: pytest.LogCaptureFixture
) -> None:
    vectors = np.random.default_rng(3).normal(size=(8, 4)).astype(np.float32)
    explained = np.arange(8) < images
    one = StoredVectors({"embedding": vectors}, explained, ["s0"] * 6 + ["s1"] * 2, ["a"] * 8)
    found = SimilarCases().compute(one)
    assert found["similar_image"].shape == (8, 5)
    near = (found["similar_image"] >= 0).sum(1)
    assert near.tolist() == ([2] * 6 + [5] * 2 if images == 8 else [0] * 8)
    assert (f"{6 if images == 8 else images} of {images} images have fewer than 5" in caplog.text) == (images > 0)
    assert np.array_equal(np.isnan(found["similar_chance"]), near == 0) and (found["similar_other_label"] == -1).all()


def test_labels_of_a_regression_are_no_classes() -> None:
    found = SimilarCases().compute(planted(frame=REGRESSION))
    assert found.keys() == {"similar_image", "similar_cosine"}
    assert found.keys() == joined(SimilarCases().declare(REGRESSION)).keys()


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"of": "logit"}, "compares vectors or maps, but logit is of the kind 'prediction'"),
        ({"of": "nothing"}, "computed from nothing, which no explainer"),
        ({"explainer": "one"}, "has explainer 'one', but compares the vector embedding"),
        ({"of": MAPS}, "compares maps, but its explainer is None: set `explainer` to one of one, two"),
        ({"of": MAPS, "explainer": "three"}, "its explainer is 'three': set `explainer` to one of one, two"),
    ],
)
def test_what_cannot_be_compared_is_refused(fields: dict[str, Any], said: str) -> None:
    maps = Axis(name="explainer", labels=("one", "two"))
    outputs = {
        "embedding": Output(name="embedding", dims=("image_id", "feature"), kind="vector", long_name=""),
        "logit": Output(name="logit", dims=("image_id", "class"), kind="prediction", long_name=""),
        MAPS: Output(name=MAPS, dims=("image_id", "explainer"), kind="map", long_name="", axes=(maps,)),
    }
    SimilarCases().check(outputs)
    SimilarCases(of=MAPS, explainer="two").check(outputs)
    with pytest.raises(ConfigurationError, match=said):
        SimilarCases(**fields).check(outputs)
