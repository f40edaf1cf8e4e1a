"""Prototypes and criticisms are those of the formulae, whatever the blocks and the order of the images are."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from models.errors import ConfigurationError
from models.outputs import Output, joined
from models.results import Prototypes, prototypes
from models.results.critic import evenly, mmd_critic
from models.results.nearest import directions
from tests.models.test_declarations import check
from tests.models.test_similar_cases import FRAME, REGRESSION, StoredVectors

Floats = NDArray[np.float64]


def drawn_vectors(cases: int, features: int = 6, seed: int = 0) -> NDArray[np.float32]:
    return directions(np.random.default_rng(seed).normal(size=(cases, features)) + 0.5)


def clusters(*sizes: int, spread: float = 0.1) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Vectors around axes, and the cluster of each."""
    cluster = np.repeat(np.arange(len(sizes)), sizes)
    noise = np.random.default_rng(5).normal(size=(len(cluster), 8))
    return directions(np.eye(len(sizes), 8)[cluster] + spread * noise), cluster


def stored_with(vectors: NDArray[np.float32], logits: Floats, subjects: Sequence[str] = ()) -> StoredVectors:
    names = subjects or [f"s{row}" for row in range(len(vectors))]
    arrays = {"embedding": vectors, "logit": logits.astype(np.float32)}
    return StoredVectors(arrays, np.ones(len(vectors), bool), names, [""] * len(vectors))


def kernel_of(unit: NDArray[np.float32]) -> Floats:
    apart = np.square(unit[:, None].astype(float) - unit[None].astype(float)).sum(-1)
    return np.exp(-apart / (2 * np.median(apart[np.triu_indices(len(unit), 1)])))


def greedy(score: Callable[[list[int]], float], subjects: Sequence[int], used: Iterable[int], count: int) -> list[int]:
    """Add the case of another subject by which the score of the set is the greatest, again and again."""
    chosen: list[int] = []
    taken = {subjects[one] for one in used}
    while len(chosen) < count:
        free = [one for one in range(len(subjects)) if subjects[one] not in taken]
        chosen.append(max(free, key=lambda one: round(score([*chosen, one]), 9)))
        taken.add(subjects[chosen[-1]])
    return chosen


@pytest.mark.parametrize("seed", range(3))
def test_they_are_those_of_the_formulae_by_brute_force(seed: int) -> None:
    unit = drawn_vectors(30, seed=seed)
    subjects = [row // 2 for row in range(30)]
    kernel = kernel_of(unit)

    def stands(chosen: list[int]) -> float:
        return float(2 * kernel[:, chosen].mean() - kernel[np.ix_(chosen, chosen)].mean())

    standing = greedy(stands, subjects, [], 4)
    witness = np.abs(kernel.mean(1) - kernel[:, standing].mean(1))

    def criticises(chosen: list[int]) -> float:
        return float(witness[chosen].sum() + np.linalg.slogdet(kernel[np.ix_(chosen, chosen)])[1])

    against = greedy(criticises, subjects, standing, 4)
    found = mmd_critic(unit, [str(one) for one in subjects], 4, 4)
    assert (found.prototypes, found.criticisms) == (standing, against)
    signed = kernel.mean(1) - kernel[:, standing].mean(1)
    np.testing.assert_allclose(found.witness, signed[against], atol=1e-6)


@pytest.mark.parametrize(("apart", "spread"), [(1, 0.01), (6, 0.05)])
def test_each_cluster_has_a_prototype_and_what_lies_apart_is_the_first_criticism(apart: int, spread: float) -> None:
    unit, cluster = clusters(16, 16, 16, apart, spread=spread)
    stored = stored_with(unit, np.tile([2.0, 1.0], (len(unit), 1)))
    found = Prototypes(prototypes=3).compute(stored)
    assert sorted(cluster[found["prototype_image"][0]]) == [0, 1, 2]
    assert cluster[found["prototype_criticism"][0, 0]] == 3 and found["prototype_witness"][0, 0] > 0


def test_the_share_of_a_prototype_is_that_of_its_cluster() -> None:
    unit, cluster = clusters(17, 16, 15, 12, spread=0.05)
    found = Prototypes(prototypes=4).compute(stored_with(unit, np.tile([2.0, 1.0], (60, 1))))
    sizes = np.bincount(cluster)[cluster[found["prototype_image"][0]]]
    np.testing.assert_allclose(found["prototype_share"][0] * 60, sizes, rtol=1e-6)
    assert sorted(sizes) == [12, 15, 16, 17]


@pytest.mark.parametrize("features", [3, 100, 1000])
def test_blocks_and_order_change_nothing(features: int) -> None:
    unit = drawn_vectors(60, features)
    subjects = [f"s{row // 2}" for row in range(60)]
    expected = mmd_critic(unit, subjects, 6, 6)
    for block in (1, 7, 59):
        for found, known in zip(mmd_critic(unit, subjects, 6, 6, block), expected, strict=True):
            assert np.array_equal(found, known)
    order = np.random.default_rng(1).permutation(60)
    standing, against, witness = mmd_critic(unit[order], [subjects[row] for row in order], 6, 6)
    assert (order[standing].tolist(), order[against].tolist()) == expected[:2]
    assert np.array_equal(witness, expected.witness)


def test_cases_of_a_class_are_predicted_explained_and_of_different_subjects() -> None:
    drawn = np.random.default_rng(2)
    logits, vectors = drawn.normal(size=(60, 2)), drawn_vectors(60)
    vectors[3], vectors[4] = 0, np.inf
    stored = stored_with(vectors, logits, [f"s{row // 3}" for row in range(60)])
    explained = np.arange(60) % 10 != 7
    stored = replace(stored, explained=explained)
    result = Prototypes(prototypes=12, criticisms=8)
    found = result.compute(stored)
    for index in range(2):
        rows = np.concatenate([found[f"prototype_{name}"][index] for name in ("image", "criticism")])
        rows = rows[rows >= 0]
        assert (logits[rows].argmax(1) == index).all() and explained[rows].all() and not {3, 4} & {*rows.tolist()}
        assert len({stored.subjects[row] for row in rows}) == len(rows) >= 12
    declared = joined(result.declare(FRAME))
    check({name: torch.from_numpy(values) for name, values in found.items()}, declared, FRAME, 60)
    assert all(found[name].dtype == output.dtype for name, output in declared.items())


def test_with_sigmoid_an_image_may_be_of_several_classes_or_of_none() -> None:
    logits = np.array([[1, 1], [-1, 2], [-1, -1]])
    stored = replace(stored_with(drawn_vectors(3), logits), frame=replace(FRAME, activation="sigmoid"))
    found = Prototypes(prototypes=2, criticisms=1).compute(stored)["prototype_image"]
    assert found[0].tolist() == [0, -1] and sorted(found[1]) == [0, 1]


@pytest.mark.parametrize(("images", "subjects"), [(0, 1), (1, 1), (4, 4), (8, 1)])
def test_too_few_subjects_leave_places_empty_and_it_is_said(
    images: int, subjects: int, caplog: pytest.LogCaptureFixture
) -> None:
    logits = np.tile([2.0, 1.0], (8, 1))
    stored = stored_with(drawn_vectors(8), logits, [f"s{row % subjects}" for row in range(8)])
    stored = replace(stored, explained=np.arange(8) < images)
    found = Prototypes(label="typical").compute(stored)
    there = (found["typical_image"] >= 0).sum(1).tolist()
    assert there == [min(images, subjects), 0] and (found["typical_criticism"] == -1).all()
    assert np.array_equal(np.isnan(found["typical_share"]), found["typical_image"] < 0)
    for name, count in zip("ab", there, strict=True):
        assert f"result typical: class '{name}' has {count} of 5 prototypes and 0 of 5 criticisms" in caplog.text


def test_equal_images_are_chosen_by_row_and_a_criticism_is_not_repeated() -> None:
    unit = drawn_vectors(1).repeat(4, axis=0)
    assert mmd_critic(unit, list("abcd"), 2, 2)[:2] == ([0, 1], [2])


def test_candidates_of_a_large_class_are_chosen_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    assert evenly(5, 10).tolist() == [0, 1, 2, 3, 4] and evenly(10, 4).tolist() == [0, 2, 5, 7]
    monkeypatch.setattr(prototypes, "_CANDIDATES", 4)
    found = Prototypes(prototypes=4).compute(stored_with(drawn_vectors(10), np.tile([2.0, 1.0], (10, 1))))
    assert sorted(found["prototype_image"][0]) == [0, 2, 5, 7]
    assert found["prototype_share"][0].sum() == pytest.approx(1)


def test_what_has_no_classes_or_is_no_vector_is_refused() -> None:
    def output(name: str, kind: Any) -> Output:
        return Output(name=name, dims=("image_id", "feature"), kind=kind, long_name="")

    outputs = {"embedding": output("embedding", "vector"), "logit": output("logit", "prediction")}
    Prototypes().check(outputs)
    with pytest.raises(ConfigurationError, match="compares vectors, but logit is of the kind 'prediction'"):
        Prototypes(of="logit").check(outputs)
    with pytest.raises(ConfigurationError, match="the network is a regression, which predicts none"):
        Prototypes().declare(REGRESSION)
