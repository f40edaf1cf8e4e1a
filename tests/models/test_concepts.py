"""Concepts: pooled activations by autograd, directions by scikit-learn, TCAV by Captum and by planted truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from captum.concept import TCAV as CaptumTCAV
from captum.concept import Classifier, Concept
from scipy import stats
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.utils.data import DataLoader

from models.engine import Engine
from models.explainers.pooled import PooledActivations
from models.outputs import Frame, joined, shape_of
from models.prediction import TARGET_CLASS
from models.results import TCAV, tcav
from models.results.concepts import ConceptImages
from models.results.directions import CHANCE, direction, held_out_accuracy
from models.results.tcav import ConceptFlag, _differ
from models.targets import Classes, OverThreshold
from tests.models.cohorts import Cohort
from tests.models.networks import names, wrap

SHAPES = {2: (12, 18), 3: (6, 8, 10)}
ACTIVATIONS, GRADIENTS = "pooled_activations", "pooled_activations_gradient"


def curved(dims: int) -> nn.Sequential:
    """A network whose gradients differ from image to image; its layer "2" is pooled by "4"."""
    torch.manual_seed(0)
    conv, pool = (nn.Conv2d, nn.AdaptiveAvgPool2d(1)) if dims == 2 else (nn.Conv3d, nn.AdaptiveAvgPool3d(1))
    module = nn.Sequential(
        *(conv(1, 5, 3, padding=1), nn.Tanh(), conv(5, 7, 3, padding=1), pool, nn.Flatten()),
        *(nn.Linear(7, 16), nn.Tanh(), nn.Linear(16, 4)),
    ).double()
    with torch.no_grad():
        module[5].weight *= 20
    return module


def drawn(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dims", [2, 3])
def test_pooled_activations_are_those_of_hooks_and_autograd(dims: int) -> None:
    module, images = curved(dims), drawn((5, 1, *SHAPES[dims]))
    engine = Engine(wrap(module, dims, shape=SHAPES[dims]), [PooledActivations(layer="2")], Classes(classes=("d", "a")))
    found = engine.explain(images, names(images)).outputs
    output = module[:3](images).detach().requires_grad_()
    logits = module[3:](output)
    torch.testing.assert_close(found[ACTIVATIONS], output.mean(tuple(range(2, 2 + dims))))
    for place, index in enumerate((3, 0)):
        (gradient,) = torch.autograd.grad(logits[:, index].sum(), output, retain_graph=True)
        torch.testing.assert_close(found[GRADIENTS][:, place], gradient.sum(tuple(range(2, 2 + dims))))
    assert engine.forward_passes == 5 and engine.backward_passes == 10


def test_the_gradient_gives_directional_derivatives_of_the_pooled_activation() -> None:
    module, images, along = curved(2), drawn((5, 1, *SHAPES[2])), drawn((7,), 2)
    engine = Engine(wrap(module, shape=SHAPES[2]), [PooledActivations(layer="2")], Classes(classes=("b",)))
    found = engine.explain(images, names(images)).outputs

    def ask(step: float) -> Tensor:
        output = module[:3](images) + step * along[:, None, None]
        return module[3:](output)[:, 1]

    torch.testing.assert_close(found[GRADIENTS][:, 0] @ along, (ask(1e-5) - ask(-1e-5)) / 2e-5)


def test_there_is_no_gradient_where_there_is_no_target() -> None:
    network = wrap(curved(2), shape=SHAPES[2])
    network.config = network.config.model_copy(update={"activation": "sigmoid"})
    images = drawn((5, 1, *SHAPES[2]))
    engine = Engine(network, [PooledActivations(layer="2", label="deep")], OverThreshold(threshold=0.5))
    found = engine.explain(images, names(images)).outputs
    missing = found[TARGET_CLASS] < 0
    assert missing.any() and not missing.all()
    assert torch.equal(found["deep_gradient"].isnan().all(-1), missing)
    assert torch.equal(found["deep_gradient"].isnan().any(-1), missing) and found["deep"].isfinite().all()


def sides(count: int = 40, features: int = 12, apart: float = 1.5, seed: int = 0) -> tuple[Any, Any]:
    generator = np.random.default_rng(seed)
    ours, others = generator.normal(size=(2, count, features)) * 3 + 5
    ours[:, 0] += 3 * apart
    return ours, others


def test_a_logistic_direction_is_that_of_scikit_learn() -> None:
    ours, others = sides()
    vectors = np.concatenate([ours, others])
    middle = vectors.mean(0)
    scale = np.sqrt(((vectors - middle) ** 2).sum(1).mean())
    fitted = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000)
    fitted.fit((vectors - middle) / scale, np.repeat([1, 0], 40))
    found, offset = direction(ours, others, "logistic")
    expected = fitted.coef_[0] / np.linalg.norm(fitted.coef_)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    decided = fitted.predict((vectors - middle) / scale)
    np.testing.assert_array_equal(vectors @ found > offset, decided == 1)


def test_the_difference_of_means_lies_between_them() -> None:
    ours, others = sides()
    found, offset = direction(ours, others, "mean_difference")
    apart = ours.mean(0) - others.mean(0)
    np.testing.assert_allclose(found, apart / np.linalg.norm(apart))
    assert np.isclose((ours.mean(0) @ found + others.mean(0) @ found) / 2, offset)


@pytest.mark.parametrize("classifier", ["logistic", "mean_difference"])
def test_vectors_that_are_all_the_same_have_no_direction(classifier: Any) -> None:
    found, _ = direction(np.ones((3, 4)), np.ones((5, 4)), classifier)
    assert not found.any()


@pytest.mark.parametrize("classifier", ["logistic", "mean_difference"])
def test_accuracy_is_that_on_subjects_who_were_not_seen(classifier: Any) -> None:
    generator = np.random.default_rng(0)
    names_of = np.repeat([f"patient-{number}" for number in range(20)], 10)
    found = []
    for _ in range(20):
        of_subject = generator.normal(size=(20, 50)) * 5  # subjects differ, concept and others do not
        both = np.repeat(of_subject, 10, axis=0) + generator.normal(size=(200, 50))
        found.append(held_out_accuracy(both[:100], both[100:], (names_of[:100], names_of[100:]), classifier))
    assert 0.4 < np.mean(found) < 0.6
    ours, others = sides(apart=3)
    told = held_out_accuracy(ours, others, (names_of[::5], np.char.add("other-", names_of[::5])), classifier)
    assert told > 0.9
    assert held_out_accuracy(ours, others, (["one"] * 40, names_of[::5]), classifier) == CHANCE


def planted(seed: int, images: int = 300, size: int = 40, features: int = 64) -> Cohort:
    """Class a heeds the first feature, which a concept raises; another concept raises one that no class heeds.

    A third is of images that have nothing in common.
    """
    generator = np.random.default_rng(seed)
    labels = np.repeat(["heeded", "unheeded", "random"], size).tolist()
    labels += ["a", "b"] * ((images - len(labels)) // 2)
    activations = generator.normal(size=(images, features)).astype(np.float32)
    activations[:size, 0] += 3
    activations[size : 2 * size, 1] += 3
    classes = np.array([{"b": 1}.get(label, 0) for label in labels], np.int32)[:, None]
    gradients = generator.normal(size=(images, 1, features)).astype(np.float32)
    gradients[:, 0, 0] += np.where(classes[:, 0] == 0, 1.5, -1.5)
    frame = Frame(("a", "b"), ("first",), (), ("grey",), (4, 4), "softmax")
    ids = [f"image-{row}" for row in generator.permutation(images)]
    arrays = {ACTIVATIONS: activations, GRADIENTS: gradients, TARGET_CLASS: classes}
    return Cohort(frame, ids, labels, ids, np.ones(images, bool), arrays)


THREE = TCAV(concepts=("heeded", "unheeded", "random"), classifier="mean_difference")


def test_a_planted_concept_is_significant_and_others_are_not_over_seeds() -> None:
    significant, flagged = np.zeros(3, int), np.zeros(3, int)
    for seed in range(40):
        found = THREE.compute(planted(seed))
        significant += (found["tcav_p"] < 0.05).any(1)
        flagged += found["tcav_flags"] == ConceptFlag.AT_CHANCE
        assert found["tcav_score"][0, 0] > 0.8 and found["tcav_score"][0, 1] < 0.2
        assert found["tcav_direction"][0, 0] > 0.85
    assert significant[0] == 40 and significant[1] <= 2 and significant[2] <= 2
    assert flagged.tolist()[:2] == [0, 0] and flagged[2] >= 38


def test_random_concepts_are_not_significant_even_where_accuracy_is_no_bar(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcav, "LEVEL", 1.0)
    significant = [(TCAV(concepts=("random",)).compute(planted(seed))["tcav_p"] < 0.05).any() for seed in range(40)]
    assert sum(significant) <= 2


def test_p_is_that_of_one_score_in_a_regression_on_being_the_concept() -> None:
    random = np.random.default_rng(0).beta(3, 3, 30)
    for score in (0.0, 0.5, 0.97):
        expected = stats.linregress([1, *[0] * 30], [score, *random]).pvalue
        np.testing.assert_allclose(_differ(score, random), expected, rtol=1e-9)
    assert _differ(1.0, np.ones(30)) == 1 and _differ(0.9, np.ones(30)) == 0
    assert np.isnan(_differ(np.nan, np.full(30, np.nan)))


@pytest.mark.parametrize("classifier", ["logistic", "mean_difference"])
def test_a_result_is_the_same_to_the_bit_in_any_order(classifier: Any) -> None:
    result = TCAV(concepts=("heeded", "unheeded"), classifier=classifier)
    cohort = planted(1)
    found, again = result.compute(cohort), result.compute(cohort.taken(np.random.default_rng(3).permutation(300)))
    other = TCAV(concepts=("unheeded", "heeded"), classifier=classifier).compute(cohort)
    for name in found:
        assert found[name].tobytes() == again[name].tobytes(), name
        assert found[name].tobytes() == np.ascontiguousarray(other[name][::-1]).tobytes(), name


def test_it_returns_what_it_declares() -> None:
    cohort = planted(2)
    (features,) = PooledActivations().declare(cohort.frame, wrap(curved(2), shape=SHAPES[2]))[0].axes
    found = THREE.compute(cohort)
    declared = joined(THREE.declare(cohort.frame))
    assert list(found) == list(declared)
    for name, output in declared.items():
        with_features = output.model_copy(update={"axes": (*output.axes, features.model_copy(update={"labels": 64}))})
        assert found[name].shape == shape_of(with_features, cohort.frame) and found[name].dtype == output.dtype


@pytest.mark.parametrize(
    ("kept", "flag"),
    [
        (slice(21, None), ConceptFlag.TOO_FEW_IMAGES),
        (slice(0, 40 + 39), ConceptFlag.TOO_FEW_OTHERS),
        (slice(20, None), ConceptFlag(0)),
    ],
    ids=["19 images", "39 others", "20 images"],
)
def test_what_is_no_concept_is_said_and_not_scored(
    kept: slice, flag: ConceptFlag, caplog: pytest.LogCaptureFixture
) -> None:
    found = TCAV(concepts=("heeded",)).compute(planted(0).taken(np.arange(300)[kept]))
    assert found["tcav_flags"].tolist() == [flag]
    for name in ("score", "p", "direction", "random_score", "accuracy"):
        assert np.isnan(found[f"tcav_{name}"]).all() == bool(flag), name
    said = [record.getMessage() for record in caplog.records]
    words = str(flag.name).lower().replace("_", " ")
    assert said == ([f"tcav: 'heeded' is no concept and is not scored: {words}"] if flag else [])


def test_a_concept_of_one_subject_is_none() -> None:
    cohort = planted(0)
    found = THREE.compute(replace(cohort, subjects=["one"] * 40 + list(cohort.ids[40:])))
    assert found["tcav_flags"][0] == ConceptFlag.AT_CHANCE and found["tcav_accuracy"][0] == CHANCE


def test_a_layer_whose_gradient_is_the_same_for_all_images_is_said(caplog: pytest.LogCaptureFixture) -> None:
    cohort = planted(0)
    same = np.broadcast_to(cohort.arrays[GRADIENTS][-1], cohort.arrays[GRADIENTS].shape)
    found = TCAV(concepts=("heeded",)).compute(replace(cohort, arrays=cohort.arrays | {GRADIENTS: same}))
    assert "name an earlier layer in pooled_activations" in caplog.text and (found["tcav_p"] > 0.05).all()
    caplog.clear()
    TCAV(concepts=("heeded",)).compute(cohort)
    assert not caplog.records


def test_images_count_for_the_class_that_their_label_names_or_that_was_explained_of_them() -> None:
    cohort = planted(0).taken(np.arange(6))
    cohort = replace(cohort, labels=["a", "b", "a|striped", "striped", "", "a|b"])
    counted = ConceptImages(cohort, ["striped"]).of_classes(("a", "b"))
    assert counted.tolist() == [[True, False], [False, True], [True, False], [False, False], [True] * 2, [True] * 2]


def test_images_that_are_not_explained_show_nothing() -> None:
    cohort = planted(0)
    explained = np.arange(300) % 2 == 0
    images = ConceptImages(replace(cohort, explained=explained), ["heeded"])
    assert len(images["heeded"]) == 20 and explained[images["heeded"]].all() and explained[images.others].all()


class MeanDifference(Classifier):
    """A classifier for Captum."""

    def __init__(self) -> None:
        self.normal = torch.empty(0)

    def train_and_eval(self, dataloader: Any, **kwargs: Any) -> dict[str, Any]:
        vectors, labels = (torch.cat(parts) for parts in zip(*dataloader, strict=True))
        self.first, self.second = labels.unique().tolist()
        self.normal = vectors[labels == self.first].mean(0) - vectors[labels == self.second].mean(0)
        return {}

    def weights(self) -> Tensor:
        return torch.stack([self.normal, -self.normal])

    def classes(self) -> list[int]:
        return [self.first, self.second]


def test_a_score_is_that_of_captum(tmp_path: Path) -> None:
    module, images = curved(2), drawn((120, 1, *SHAPES[2]))
    images[:30] += drawn(SHAPES[2], 5) > 0
    labels = ["bright"] * 30 + [""] * 90
    engine = Engine(wrap(module, shape=SHAPES[2]), [PooledActivations(layer="2")], Classes(classes=("d",)))
    outputs = engine.explain(images, names(images)).outputs
    arrays = {name: outputs[name].float().numpy() for name in (ACTIVATIONS, GRADIENTS)}
    frame = Frame(("a", "b", "c", "d"), ("d",), (), ("grey",), SHAPES[2], "softmax")
    arrays[TARGET_CLASS] = outputs[TARGET_CLASS].numpy()
    cohort = Cohort(frame, names(images), labels, names(images), np.ones(120, bool), arrays)
    result = TCAV(concepts=("bright",), classifier="mean_difference")
    found = result.compute(cohort)

    pairs = ConceptImages(cohort, ["bright"]).draw("bright", 30, 30)
    captum = CaptumTCAV(module.float(), ["4"], classifier=MeanDifference(), save_path=str(tmp_path))
    sets = [
        [
            Concept(2 * number + place, f"{number}-{place}", DataLoader(images[rows].float(), batch_size=64))
            for place, rows in enumerate((pairs.ours[number], pairs.others[number]))
        ]
        for number in range(30)
    ]
    scores = captum.interpret(images[30:].float(), sets, target=3)
    expected = np.mean([float(of_set["4"]["sign_count"][0]) for of_set in scores.values()])
    assert 0 < expected < 1 and not found["tcav_flags"].any()
    np.testing.assert_allclose(found["tcav_score"][0, 3], expected, atol=1e-6)
    assert np.isnan(found["tcav_score"][0, :3]).all() and found["tcav_p"][0, 3] <= 1
