"""Networks with prototypes: similarities, training and maps are those of the formulae, and patches are found again."""

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.nn import functional

from models.engine import Engine
from models.explainers.prototype_activation import PrototypeActivation
from models.network import Network
from models.networks import AttentionGatedClassifier, PrototypeClassifier
from models.networks.prototypes import Similarity, push_and_pull
from models.outputs import Frame, joined
from models.results import PrototypePatches
from models.targets import Classes, Difference
from models.training import predict, standardise
from tasks.demo.phantom import phantom
from tasks.demo.shipped import WEIGHTS
from tasks.demo.training import draw
from tests.models.networks import SHAPES, difference, images, names, wrap
from tests.models.test_similar_cases import StoredVectors

B = Classes(classes=("b",))
GREATEST = math.log((0 + 1) / 1e-4)


def module_of(dims: int = 2) -> PrototypeClassifier:
    """A network whose latent vectors differ, and whose prototypes have weights that differ."""
    torch.manual_seed(1)
    module = PrototypeClassifier(dims, 1, 4, prototypes=2, features=(4, 6), latent=5).double().eval()
    module.latent[0].weight.data *= 20
    module.classifier.weight.data *= torch.linspace(0.5, 2, 8)
    return module


def similarities(module: PrototypeClassifier, batch: Tensor) -> Tensor:
    """The similarity at each place by plain distances, ``(image, prototype, *space)``."""
    latent = module.encode(batch).detach()
    apart = torch.cdist(latent.flatten(2).transpose(1, 2), module.prototypes.vectors.detach()).square()
    return ((apart + 1) / (apart + 1e-4)).log().transpose(1, 2).unflatten(2, latent.shape[2:])


def explain(module: PrototypeClassifier, batch: Tensor, target: Any = B, dims: int = 2) -> Any:
    return Engine(wrap(module, dims), [PrototypeActivation()], target).explain(batch, names(batch))


@pytest.mark.parametrize("dims", [2, 3])
def test_a_logit_is_the_weighted_sum_of_the_greatest_similarities_to_the_prototypes_of_the_class(dims: int) -> None:
    module, batch = module_of(dims), images(dims, count=2)
    greatest = similarities(module, batch).flatten(2).amax(2)
    expected = (greatest * torch.linspace(0.5, 2, 8)).unflatten(1, (4, 2)).sum(2)
    assert torch.allclose(module(batch), expected)
    layer = Similarity(3, 5)
    assert torch.allclose(layer(layer.vectors.T[None, :, :, None])[0, :, :, 0].diagonal(), torch.tensor(GREATEST))


@pytest.mark.parametrize("dims", [2, 3])
def test_the_map_spreads_the_part_of_each_prototype_over_places_as_they_are_alike(dims: int) -> None:
    module, batch = module_of(dims), images(dims, count=2)
    similarity, mode = similarities(module, batch), "bilinear" if dims == 2 else "trilinear"
    spread = functional.interpolate(similarity, SHAPES[dims], mode=mode).numpy()
    expected = np.zeros((2, *SHAPES[dims]))
    for image in range(2):
        for prototype in (2, 3):  # those of b
            own = spread[image, prototype] - spread[image, prototype].min()
            part = float(module.classifier.weight.detach()[1, prototype] * similarity[image, prototype].max())
            expected[image] += part * own / own.sum()
    assert difference(explain(module, batch, dims=dims).maps[:, 0, 0], torch.as_tensor(expected)) < 1e-9


@pytest.mark.parametrize("target", [B, Difference(of="d", against="a")])
def test_the_map_sums_to_the_logit(target: Any) -> None:
    module, batch = module_of(), images(2)
    engine = Engine(wrap(module), [PrototypeActivation()], target)
    found = engine.explain(batch, names(batch)).maps[:, 0, 0]
    assert torch.allclose(found.flatten(1).sum(1), engine.batch(batch, names(batch)).scores[0])


def test_a_map_of_an_image_that_is_the_same_everywhere_is_even() -> None:
    module, blank = module_of(), torch.zeros(1, 1, *SHAPES[2], dtype=torch.float64)
    for block in module.blocks:
        block[0].weight.data.zero_()
    found = explain(module, blank)
    assert torch.allclose(found.maps, found.logits[0, 1] / found.maps[0].numel())


@pytest.mark.parametrize("dims", [2, 3])
def test_similarity_and_place_of_each_prototype_are_stored(dims: int) -> None:
    module, batch = module_of(dims), images(dims, count=3)
    engine = Engine(wrap(module, dims), [PrototypeActivation(label="own")], B)
    found, similarity = engine.explain(batch, names(batch)).outputs, similarities(module, batch)
    assert torch.allclose(found["own_similarity"], similarity.flatten(2).amax(2))
    for image, prototype in np.ndindex(3, 8):
        cell = np.unravel_index(int(similarity[image, prototype].argmax()), similarity.shape[2:])
        middle = [2 * index + 0.5 for index in cell]  # a cell is of two voxels along each axis
        np.testing.assert_allclose(found["own_place"][image, prototype], middle)
    frame = Frame(("a", "b", "c", "d"), ("b",), ("own",), ("grey",), SHAPES[dims], "softmax")
    declared = joined(engine.asking[0].declare(frame, engine.network))
    assert declared["own_similarity"].axes[0].labels[:3] == ("a 1", "a 2", "b 1")  # type: ignore[index]


def test_prototypes_of_one_output_are_of_the_class_that_they_speak_for() -> None:
    module = PrototypeClassifier(2, 1, 1, prototypes=3, features=(4, 8), latent=5)
    module.classifier.weight.data = torch.tensor([[1.0, -1.0, 2.0]])
    config = wrap(module_of()).config.model_copy(update={"classes": ("normal", "lesion"), "activation": "sigmoid"})
    network = Network(module.double(), config)
    frame = Frame(("normal", "lesion"), ("lesion",), ("own",), ("grey",), SHAPES[2], "sigmoid")
    declared = joined(PrototypeActivation().declare(frame, network))
    assert declared["prototype_similarity"].axes[0].labels == ("lesion 1", "normal 1", "lesion 2")


def test_networks_without_prototypes_are_refused() -> None:
    torch.manual_seed(0)
    with pytest.raises(ValueError, match=r"prototype_activation: AttentionGatedClassifier declares no layer of proto"):
        Engine(wrap(AttentionGatedClassifier(2, 1, 4)), [PrototypeActivation()], B)

    class Averaged(nn.Module):
        prototype_layer = "similarity"

        def __init__(self) -> None:
            super().__init__()
            self.similarity, self.head = nn.Conv2d(1, 6, 3), nn.Linear(6, 4)

        def forward(self, inputs: Tensor) -> Tensor:
            return self.head(self.similarity(inputs).mean((2, 3)))

    with pytest.raises(ValueError, match=r"does not take the maxima over space of 'similarity'"):
        Engine(wrap(Averaged()), [PrototypeActivation()], B)


def test_preparing_the_network_changes_no_answer() -> None:
    module, batch = module_of(), images(2)
    expected, network = module(batch), wrap(module)
    assert len(network._folded) == 4 and isinstance(network, Network)
    assert torch.allclose(network(network.prepare(batch)), expected, rtol=1e-9)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_projected_prototype_is_the_nearest_patch_of_an_image_of_its_class(dims: int) -> None:
    module, batch, labels = module_of(dims), images(dims, count=6), torch.tensor([0, 1, 2, 3, 0, 1])
    before, latent = module.prototypes.vectors.detach().clone(), module.encode(batch).detach()
    patches = module.project(batch, labels, batch_size=4)
    for prototype, patch in enumerate(patches):
        own = latent[labels == prototype // 2].movedim(1, -1).flatten(0, -2)
        nearest = own[(own - before[prototype]).norm(dim=1).argmin()]
        assert torch.equal(module.prototypes.vectors[prototype], nearest)
        assert torch.equal(latent[(patch.image, slice(None), *patch.place)], nearest)
    found = explain(module, batch, dims=dims).outputs["prototype_similarity"]
    assert all(torch.isclose(found[patch.image, one], torch.tensor(GREATEST, dtype=torch.float64), rtol=1e-6)
               for one, patch in enumerate(patches))  # fmt: skip


def test_push_and_pull_is_the_loss_of_the_paper() -> None:
    module, batch, labels = module_of(), images(2), torch.tensor([0, 1, 2, 3, 0])
    latent = module.encode(batch).detach().flatten(2)
    cluster = separation = 0.0
    for vectors, label in zip(latent, labels, strict=True):
        apart = (vectors.T[:, None] - module.prototypes.vectors.detach()[None]).square().sum(2).amin(0)
        own = slice(2 * int(label), 2 * int(label) + 2)
        cluster += float(apart[own].min()) / 5
        separation += float(torch.cat([apart[: own.start], apart[own.stop :]]).min()) / 5
    expected = functional.cross_entropy(module(batch), labels) + 0.8 * cluster - 0.08 * separation
    assert torch.allclose(push_and_pull(module, batch, labels), expected)


def test_the_last_layer_is_fitted_and_lets_prototypes_speak_for_their_class_alone() -> None:
    module, batch, labels = module_of().float(), images(2).float(), torch.tensor([0, 1, 2, 3, 0])
    before = functional.cross_entropy(module(batch), labels)
    module.weigh(batch, labels)
    weight = module.classifier.weight.detach().clone()
    own = torch.eye(4).repeat_interleave(2, dim=1) > 0
    assert (weight[own] > 0).all() and (weight[~own] == 0).all()
    assert functional.cross_entropy(module(batch), labels) < before
    similarity = module.similarity(batch).detach()
    best = functional.cross_entropy(similarity @ weight.T, labels)
    for factor in (0.9, 1.1):  # no weight is better a little smaller, or larger
        for prototype in range(8):
            other = weight.clone()
            other[:, prototype] *= factor
            assert functional.cross_entropy(similarity @ other.T, labels) > best - 1e-4


def stored_of(similarity: Any, subjects: list[str], explained: Any) -> StoredVectors:
    places = np.arange(similarity.size * 2, dtype=np.float32).reshape(*similarity.shape, 2)
    arrays = {"prototype_similarity": similarity.astype(np.float32), "prototype_place": places}
    return StoredVectors(arrays, explained, subjects, [""] * len(similarity))


def test_patches_are_those_of_the_greatest_similarity_one_of_a_subject() -> None:
    drawn = np.random.default_rng(0)
    similarity, explained = drawn.normal(size=(20, 3)), np.ones(20, bool)
    similarity[4:8, 0] = 9
    explained[5], similarity[6] = False, np.nan
    subjects = [f"s{row // 2}" for row in range(20)]
    stored = stored_of(similarity, subjects, explained)
    result = PrototypePatches(patches=4)
    found = result.compute(stored)
    for prototype in range(3):
        free = [row for row in range(20) if explained[row] and np.isfinite(similarity[row, prototype])]
        expected: list[int] = []
        for row in sorted(free, key=lambda row: (-np.float32(similarity[row, prototype]), row)):
            if subjects[row] not in [subjects[one] for one in expected]:
                expected.append(row)
        rows = found["patch_image"][prototype]
        assert list(rows) == expected[:4]
        np.testing.assert_array_equal(found["patch_similarity"][prototype], np.float32(similarity[rows, prototype]))
        np.testing.assert_array_equal(
            found["patch_place"][prototype], stored.arrays["prototype_place"][rows, prototype]
        )
    assert list(found["patch_image"][0][:2]) == [4, 7]
    declared = joined(result.declare(stored.frame))
    assert declared.keys() == found.keys()


def test_where_there_are_few_subjects_places_stay_empty() -> None:
    stored = stored_of(np.ones((3, 2)), ["s", "s", "t"], np.array([True, True, False]))
    found = PrototypePatches(patches=3).compute(stored)
    assert found["patch_image"].tolist() == [[0, -1, -1]] * 2
    assert np.isnan(found["patch_similarity"][:, 1:]).all() and np.isnan(found["patch_place"][:, 1:]).all()


def shipped() -> tuple[PrototypeClassifier, dict[str, Any]]:
    path = WEIGHTS / "prototypes_2d.safetensors"
    recipe = json.loads(path.with_suffix(".json").read_text())
    assert path.stat().st_size < 1_000_000
    network = PrototypeClassifier(2, 1, 2, features=recipe["features"])
    network.load_state_dict(load_file(path))
    return network.eval(), recipe


def test_the_shipped_weights_are_small_and_reach_their_recorded_auc() -> None:
    network, recipe = shipped()
    drawn, labels = draw(120, 2, seed=991)
    auc = roc_auc_score(labels.numpy(), predict(network, drawn)[:, 1].numpy())
    assert recipe["held_out_auc"] > 0.9 and abs(auc - recipe["held_out_auc"]) < 0.06


@torch.no_grad()
def test_the_shipped_prototypes_are_the_training_patches_of_the_recipe() -> None:
    network, recipe = shipped()
    for prototype, patch in enumerate(recipe["prototypes"]):
        one = phantom(patch["image"], spatial_dims=2, seed=recipe["seed"])
        assert int(one.lesion.any()) == network.of_class[prototype]
        latent = network.encode(standardise(torch.from_numpy(one.pixels)[None, None]))
        vector = latent[(0, slice(None), *patch["place"])]
        assert torch.allclose(vector, network.prototypes.vectors[prototype], atol=1e-4)
