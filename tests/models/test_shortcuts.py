"""Shortcuts: a planted marker is the first cluster, findings at varying places raise no alarm."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from scipy.stats import chi2_contingency, fisher_exact
from sklearn.cluster import AgglomerativeClustering
from sklearn.metrics import adjusted_rand_score

import cohortlens
from models.explainers.base import MAPS
from models.networks import AttentionGatedClassifier
from models.outputs import Frame, joined
from models.prediction import LOGIT
from models.results import Shortcuts
from models.results.clusters import clusters, mean_cosine
from models.results.label_tests import Votes
from models.results.nearest import directions
from models.results.shortcuts import ShortcutFlag, hints
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import draw
from tests.models.test_declarations import check
from tests.models.test_similar_cases import FRAME, REGRESSION, StoredVectors

BY_MAP = Shortcuts(explainer="two")
IMAGES = 120


def explained(seed: int, marker: bool) -> tuple[StoredVectors, NDArray[np.bool_]]:
    """Maps of findings at places of their own in half of the images, some of which have a marker in a corner."""
    drawn = np.random.default_rng(seed)
    ill = np.arange(IMAGES) % 2 == 1
    marked = ill & (drawn.random(IMAGES) < 0.5) & marker
    row, column = np.indices(FRAME.grid)

    def spot(place: NDArray[np.float64], radius: float) -> NDArray[np.float64]:
        return np.exp(-((row - place[0]) ** 2 + (column - place[1]) ** 2) / (2 * radius**2))

    maps = np.full((IMAGES, 1, 2, *FRAME.grid), np.nan, np.float32)
    for one in range(IMAGES):
        place = np.array(FRAME.grid) * drawn.uniform(0.2, 0.8, 2)
        own = spot(np.array([3.0, 3.0]), 1.5) if marked[one] else spot(place, 3) * (1 if ill[one] else 0.5)
        if not ill[one]:
            own += 0.3 * spot(np.array(FRAME.grid) / 2, 8)
        maps[one, 0, 1] = own + 0.1 * own.max() * np.abs(drawn.normal(size=FRAME.grid))
    labels = ["b" if one else "a" for one in ill]
    logit = np.where(ill[:, None], [-1.0, 1.0], [1.0, -1.0]).astype(np.float32)
    subjects = [f"s{one // 4 * 2 + one % 2}" for one in range(IMAGES)]  # two images each, with the same label
    return StoredVectors({MAPS: maps, LOGIT: logit}, np.ones(IMAGES, bool), subjects, labels), marked


@pytest.mark.parametrize("seed", range(3))
def test_a_marker_is_the_first_cluster(seed: int, caplog: pytest.LogCaptureFixture) -> None:
    stored, marked = explained(seed, marker=True)
    stored.arrays[LOGIT][np.flatnonzero(marked)[:3]] *= -1
    found = BY_MAP.compute(stored)
    first = found["shortcut_cluster"] == 0
    assert (first == marked).mean() > 0.97
    assert hints(found["shortcut_flags"]).tolist() == [True] + [False] * 7
    assert "cluster 0 are explained alike" in caplog.text
    assert found["shortcut_share"].sum() == pytest.approx(1)
    assert found["shortcut_share"][0] == pytest.approx(first.mean())
    wrong = stored.arrays[LOGIT].argmax(1) != (np.array(stored.labels) == "b")
    assert found["shortcut_error"][0] == pytest.approx(wrong[first].mean()) and wrong[first].any()
    assert found["shortcut_concentration"][0] > 0.9 and found["shortcut_p"][0] < 0.05
    own = stored.arrays[MAPS][first, 0, 1].astype(float)
    mean = (own / np.abs(own).mean((1, 2), keepdims=True)).mean(0)
    np.testing.assert_allclose(found["shortcut_map"][0], mean, rtol=1e-5)
    declared = joined(BY_MAP.declare(FRAME))
    check({name: torch.from_numpy(values) for name, values in found.items()}, declared, FRAME, IMAGES)


def test_findings_at_varying_places_raise_no_alarm() -> None:
    alarms = [hints(BY_MAP.compute(explained(seed, marker=False)[0])["shortcut_flags"]).any() for seed in range(20)]
    assert sum(alarms) <= 1


@pytest.mark.parametrize("marker", [False, True])
def test_the_marker_of_the_demo_is_found_and_the_clean_demo_raises_no_alarm(marker: bool) -> None:
    explainers = ("gradcam", "guided_gradcam", "input_x_gradient")
    network = AttentionGatedClassifier(spatial_dims=2, in_channels=1, num_classes=2, features=(12, 24, 48, 64))
    network.load_state_dict(load_file(WEIGHTS / f"attention_gated_2d{'_marker' * marker}.safetensors"))
    images, ill = draw(80, 2, 7, marker=marker)
    target = {"name": "classes", "classes": ["lesion"]}
    dataset = cohortlens.explain(network.eval(), images, explainers, classes=["normal", "lesion"], target=target)
    labels = ["lesion" if one else "normal" for one in ill]
    frame = Frame(("normal", "lesion"), ("lesion",), explainers, ("grey",), tuple(images.shape[2:]), "softmax")
    arrays = {MAPS: dataset[MAPS].values, LOGIT: dataset[LOGIT].values}
    stored = StoredVectors(arrays, np.ones(80, bool), [f"s{one}" for one in range(80)], labels, frame)
    for explainer in explainers:
        found = Shortcuts(explainer=explainer).compute(stored)
        hinted = np.flatnonzero(hints(found["shortcut_flags"]))
        strongest = [np.unravel_index(found["shortcut_map"][one].argmax(), frame.grid) for one in hinted]
        at_letter = [one for one, place in zip(hinted, strongest, strict=True) if max(place) < 16]  # it is at 3 to 10
        assert bool(at_letter) == bool(len(hinted)) == marker, explainer
        assert all(ill[found["shortcut_cluster"] == one].all() for one in at_letter)


def test_a_marker_that_labels_do_not_follow_raises_no_alarm() -> None:
    stored, _ = explained(0, marker=True)
    labels = [f"{'ab'[int(name[1:]) // 2 % 2]}" for name in stored.subjects]
    found = BY_MAP.compute(replace(stored, labels=labels))
    assert (~hints(found["shortcut_flags"])).all()


def test_a_marker_that_goes_with_the_site_is_found_though_labels_do_not_follow() -> None:
    stored, marked = explained(0, marker=True)
    labels = [f"{'ab'[int(name[1:]) // 2 % 2]}" for name in stored.subjects]
    sites = {"site": ["north" if one else "south" for one in marked], "scanner": ["A"] * IMAGES}
    frame = replace(FRAME, covariates=tuple(sites))
    found = BY_MAP.compute(replace(stored, labels=labels, frame=frame, covariates=sites))
    check({name: torch.from_numpy(values) for name, values in found.items()}, joined(BY_MAP.declare(frame)), frame, 120)
    first = found["shortcut_cluster"] == 0
    assert (first == marked).mean() > 0.97 and hints(found["shortcut_flags"]).tolist() == [True] + [False] * 7
    flags = ShortcutFlag(int(found["shortcut_flags"][0]))
    assert ShortcutFlag.COVARIATES_DIFFER in flags and ShortcutFlag.LABELS_DIFFER not in flags
    difference, p = (found[f"shortcut_covariate_{name}"] for name in ("difference", "p"))
    assert difference[0, 0] > 0.9 and p[0, 0] < 1e-6
    assert np.isnan(p[:, 1]).all() and np.nanmax(difference[:, 1]) == 0


def test_wrong_predictions_are_counted_by_the_class_that_stands_beside_a_concept() -> None:
    stored, _ = explained(0, marker=True)
    stored.arrays[LOGIT][:20] *= -1
    beside = [f"{label}|striped" if row % 3 else label for row, label in enumerate(stored.labels)]
    alone = ["" if row % 5 == 0 else label for row, label in enumerate(stored.labels)]
    striped = [label or "striped" for label in alone]
    for labels, plain in ((beside, stored.labels), (striped, alone)):
        found = BY_MAP.compute(replace(stored, labels=labels, concepts=("striped",)))
        expected = BY_MAP.compute(replace(stored, labels=plain))
        by_image = [one["shortcut_error"][one["shortcut_cluster"]] for one in (found, expected)]  # of its cluster
        np.testing.assert_array_equal(*by_image)


@pytest.mark.parametrize(
    ("activation", "label", "error"),
    [
        ("softmax", "b", 1),
        ("softmax", "a|b", np.nan),
        ("sigmoid", "a|b", 1),
        ("sigmoid", "a", 0),
        ("sigmoid", "none", 1),
    ],
)
def test_labels_are_read_as_elsewhere(activation: Any, label: str, error: float) -> None:
    stored, _ = explained(0, marker=False)
    stored.arrays[LOGIT][:] = [1, -1]
    frame = replace(FRAME, activation=activation)
    found = BY_MAP.compute(replace(stored, labels=[label] * IMAGES, frame=frame))
    np.testing.assert_array_equal(found["shortcut_error"], error)


def test_the_tests_of_labels_and_covariates_are_corrected_together() -> None:
    stored, _ = explained(0, marker=True)
    alone = BY_MAP.compute(stored)["shortcut_p"]
    frame = replace(FRAME, covariates=("site",))
    both = BY_MAP.compute(replace(stored, frame=frame, covariates={"site": stored.labels}))
    assert both["shortcut_p"][0] == pytest.approx(both["shortcut_covariate_p"][0, 0])
    assert both["shortcut_p"][0] == pytest.approx(2 * alone[0])


def test_the_order_of_images_does_not_count() -> None:
    stored, _ = explained(1, marker=True)
    unit, ids = directions(stored.arrays[MAPS][:, 0, 1].reshape(IMAGES, -1)), list(stored.ids)
    turned = np.random.default_rng(0).permutation(IMAGES)
    assert np.array_equal(clusters(unit, ids, 8)[turned], clusters(unit[turned], [ids[one] for one in turned], 8))


def test_clusters_are_those_of_scikit_learn_and_the_rest_joins_the_nearest() -> None:
    drawn = np.random.default_rng(2)
    of = drawn.integers(4, size=2500)
    unit = directions((5 * np.eye(4, 12)[of] + drawn.normal(size=(2500, 12))).astype(np.float32))
    ids = [f"{one:04}" for one in range(2500)]
    few = AgglomerativeClustering(4, linkage="ward").fit_predict(unit[:500])
    assert adjusted_rand_score(few, clusters(unit[:500], ids[:500], 4)) == 1
    assert adjusted_rand_score(of, clusters(unit, ids, 4)) > 0.99


def test_alikeness_is_that_of_a_plain_loop() -> None:
    drawn = np.random.default_rng(3)
    unit, subjects = directions(drawn.normal(size=(9, 5))), np.array(list("aabbccdde"))
    pairs = [unit[i] @ unit[j] for i in range(9) for j in range(9) if subjects[i] != subjects[j]]
    assert mean_cosine(unit, subjects) == pytest.approx(np.mean(pairs), abs=1e-6)
    assert np.isnan(mean_cosine(unit[:2], subjects[:2]))


def test_subjects_have_one_vote() -> None:
    groups = np.array([0, 0, 1, 1, 1, 1, 0, 1])
    labels = np.array(["x", "x", "y", "y", "x", "y", "", "y"])
    subjects = np.array(["1", "1", "2", "2", "2", "3", "4", "5"])
    votes = Votes.of(groups, labels, subjects)
    assert votes.counts.tolist() == [[1, 0], [0, 3]]
    assert votes.differences().tolist() == [1, 1]
    assert votes.p() == pytest.approx([fisher_exact([[1, 0], [0, 3]])[1]] * 2)
    many = Votes(np.array([[30, 5, 5], [20, 40, 40]]))
    assert (many.p() >= chi2_contingency(many.counts)[1] / 3).all() and (many.p() < 1e-4).all()
    assert many.differences() == pytest.approx([0.75 - 0.2] * 2)


@pytest.mark.parametrize("images", [0, 1, 2, 5])
def test_few_images_leave_clusters_empty(images: int) -> None:
    stored, _ = explained(0, marker=True)
    found = BY_MAP.compute(replace(stored, explained=np.arange(IMAGES) < images))
    assert (found["shortcut_cluster"] >= 0).sum() == images and not hints(found["shortcut_flags"]).any()
    assert np.isfinite(found["shortcut_map"]).all((1, 2)).sum() == (found["shortcut_share"] > 0).sum() <= images


def test_embeddings_have_no_places_and_a_regression_no_labels() -> None:
    vectors = np.random.default_rng(0).normal(size=(IMAGES, 6)).astype(np.float32)
    by_map, _ = explained(0, marker=True)
    stored = replace(by_map, arrays={"embedding": vectors, LOGIT: by_map.arrays[LOGIT][:, :1]}, frame=REGRESSION)
    result = Shortcuts(of="embedding", label="groups")
    found = result.compute(stored)
    assert found.keys() == joined(result.declare(REGRESSION)).keys() and "groups_map" not in found
    assert np.isnan(found["groups_p"]).all() and np.isnan(found["groups_error"]).all()
