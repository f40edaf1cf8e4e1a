"""An image and a record: what is attributed to fields, against autograd, Captum and brute force."""

from collections.abc import Callable
from itertools import permutations
from typing import Any

import pytest
import torch
from captum.attr import IntegratedGradients, Saliency
from torch import Tensor, nn

from models.engine import Engine, Explanation
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS, MapExplainer
from models.explainers.supervoxels import cut
from models.metrics import METRICS
from models.metrics.evaluate import evaluate
from models.network import Network
from models.network_config import NetworkConfig
from models.networks import AttentionGatedClassifier, JointFusionClassifier
from models.records import RecordField, record_digest
from models.targets import Classes
from tests.models.networks import FEW, STANDARD, difference, few

CLASSES = ("a", "b", "c")
FIELDS = (
    RecordField(name="age", mean=50, scale=10, fill=65),
    RecordField(name="sex", values={"F": 0, "M": 1}),
    RecordField(name="stage", values={"I": 1, "II": 2, "III": 3}, baseline="II"),
)
EXACT = {"kernel_shap": {"samples": 2000}}
IDS = ("one", "two", "three", "four")
ATTRIBUTING = {
    "saliency", "input_x_gradient", "integrated_gradients", "occlusion", "feature_ablation", "lime", "kernel_shap",
    "shapley_sampling",
}  # fmt: skip
OF_OTHER_NETWORKS = {
    "attention_rollout", "gradient_rollout", "mil_attention", "cam", "prototype_activation", "bcos",
}  # fmt: skip
REFUSED = {
    "deconvolution", "guided_backprop", "guided_gradcam", "deeplift", "deepshap", "lrp", "deep_taylor",
    "attn_lrp", "pattern_attribution", "patternnet",
}  # fmt: skip


class OnlyRecord(nn.Module):
    """A network that the image does not matter to, though gradients come back to it."""

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        nothing = 0 * images.flatten(1).sum(1, keepdim=True)
        return torch.cat([record[:, :1] ** 3, -record[:, :1], record[:, :1].cos()], 1) + nothing


def network(module: nn.Module | None = None, fields: tuple[RecordField, ...] = FIELDS) -> Network:
    torch.manual_seed(3)
    module = module or JointFusionClassifier(2, 1, 3, len(fields), (4, 4, 6, 6), 8)
    config = NetworkConfig(network={"_target_": "tests.Network"}, classes=CLASSES, input_shape=(24, 16))
    return Network(module.double(), config, fields=fields)


def given() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(4)
    images = torch.randn(4, 1, 24, 16, dtype=torch.float64, generator=generator)
    return images, torch.tensor([[1.1, 0, 1], [-0.4, 1, 3], [2.0, 1, 2], [0.3, 0, 2]], dtype=torch.float64)


def explained(own: Network, *named: dict[str, Any], batch_size: int = 3) -> Explanation:
    explainers = [EXPLAINERS.adapter.validate_python(one) for one in named]
    engine = Engine(own, explainers, Classes(classes=("b",)), batch_size, {"background": given()[0][:2]})
    images, record = given()
    return engine.explain(images, IDS, record=record)


def test_gradients_are_those_of_autograd() -> None:
    own = network()
    found = explained(own, {"name": "saliency"}, {"name": "input_x_gradient"}).outputs["attribution_record"]
    images, record = given()
    record.requires_grad_()
    (gradient,) = torch.autograd.grad(own.module(images, record)[:, 1].sum(), record)
    assert difference(found[:, 0, 0], gradient) < 1e-12
    assert difference(found[:, 0, 1], record * gradient) < 1e-12


def test_integrated_gradients_of_both_inputs_equal_captums_and_are_complete_together() -> None:
    own = network()
    made = explained(own, {"name": "integrated_gradients", "steps": 40})
    images, record = given()
    reference = torch.tensor([[1.5, 0, 2]], dtype=torch.float64)
    captum = IntegratedGradients(own.module)
    theirs = captum.attribute(
        (images, record), (torch.zeros_like(images), reference), 1, n_steps=40, method="gausslegendre"
    )
    assert difference(made.maps[:, 0, 0], theirs[0][:, 0]) < 1e-6
    assert difference(made.outputs["attribution_record"][:, 0, 0], theirs[1]) < 1e-6
    with torch.no_grad():
        apart = own.module(images, record) - own.module(torch.zeros_like(images), reference.expand(4, -1))
    gaps = []
    for steps in ({"steps": 40}, {"steps": 2000, "tolerance": 1e-3}):  # maxima and ReLUs make corners in the path
        made = explained(own, {"name": "integrated_gradients", **steps}, batch_size=256)
        found = made.maps[:, 0, 0].flatten(1).sum(1) + made.outputs["attribution_record"][:, 0, 0].sum(1)
        gaps.append(difference(found, apart[:, 1]))
    assert gaps[0] < 0.05 and gaps[1] < 1e-3
    assert difference(made.maps[:, 0, 0].flatten(1).sum(1), apart[:, 1]) > 0.1


@pytest.mark.parametrize("name", ["occlusion", "feature_ablation"])
def test_occlusion_takes_each_field_away_by_itself(name: str) -> None:
    own = network()
    made = explained(own, {"name": name, **FEW[name]}, batch_size=2)
    images, record = given()
    reference = torch.tensor([1.5, 0, 2], dtype=torch.float64)
    with torch.no_grad():
        before = own.module(images, record)[:, 1]
        for field in range(3):
            without = record.clone()
            without[:, field] = reference[field]
            drop = before - own.module(images, without)[:, 1]
            assert (made.outputs["attribution_record"][:, 0, 0, field] - drop).abs().max() < 1e-12


def test_shapley_values_of_segments_and_fields_are_those_of_all_orders() -> None:
    own = network()
    shap = {"name": "kernel_shap", "segments": 3, "samples": 2000}
    made = explained(own, shap, {"name": "shapley_sampling", "segments": 3, "permutations": 4})
    images, record = given()
    labels, counts, *_ = vars(cut(images, 3, 0.3)).values()
    for row, (image, fields, places, count) in enumerate(zip(images, record, labels, counts, strict=True)):
        values = _brute_force(own.module, image, fields, places, count)
        assert difference(made.outputs["attribution_record"][row, 0, 0], values[count:]) < 1e-9
        assert (made.maps[row, 0, 0] - values[places]).abs().max() < 1e-9
        share = values[:count].abs().sum() / values.abs().sum()
        assert abs(float(made.outputs["modality_share"][row, 0, 0, 0] - share)) < 1e-9
    with torch.no_grad():
        reference = torch.tensor([[1.5, 0, 2]], dtype=torch.float64).expand(4, -1)
        apart = (own.module(images, record) - own.module(torch.zeros_like(images), reference))[:, 1]
    for row, (places, count) in enumerate(zip(labels, counts, strict=True)):
        for explainer in (0, 1):
            of_segments = sum(made.maps[row, 0, explainer][places == segment][0] for segment in range(count))
            whole = of_segments + made.outputs["attribution_record"][row, 0, explainer].sum()
            assert abs(float(whole - apart[row])) < 1e-9


def _brute_force(module: nn.Module, image: Tensor, record: Tensor, places: Tensor, segments: int) -> Tensor:
    """Shapley values of segments and fields as the mean gain over all orders in which they are shown."""
    players = segments + len(record)
    reference = torch.tensor([1.5, 0, 2], dtype=torch.float64)
    scores: dict[frozenset[int], float] = {}

    def score(shown: frozenset[int]) -> float:
        if shown not in scores:
            segment_shown = torch.tensor([player in shown for player in range(segments)])
            field_shown = torch.tensor([player in shown for player in range(segments, players)])
            seen = image.where(segment_shown[places], 0.0)
            with torch.no_grad():
                scores[shown] = float(module(seen[None], record.where(field_shown, reference)[None])[0, 1])
        return scores[shown]

    total, count = torch.zeros(players, dtype=torch.float64), 0
    for order in permutations(range(players)):
        for place, player in enumerate(order):
            total[player] += score(frozenset(order[: place + 1])) - score(frozenset(order[:place]))
        count += 1
    return total / count


@pytest.mark.parametrize("name", sorted(ATTRIBUTING - {"lime"}))  # whose penalty takes from every coefficient
def test_of_a_network_that_uses_one_field_all_is_handed_out_to_that(name: str) -> None:
    made = explained(network(OnlyRecord()), {"name": name, **FEW.get(name, {}), **EXACT.get(name, {})})
    values, share = made.outputs["attribution_record"][:, 0, 0], made.outputs["modality_share"][:, 0, 0]
    assert (values.abs().argmax(1) == 0).all() and values[:, 1:].abs().max() < 1e-9
    assert (share[:, 1] > 1 - 1e-6).all() and torch.allclose(share.sum(1), torch.ones(4).double())


def test_every_explainer_is_right_or_refused_and_does_not_depend_on_the_batch() -> None:
    own = network()
    images, record = given()
    refused, whole = set(), {}
    for kind, made_by in STANDARD.items():
        if not issubclass(made_by, MapExplainer) or kind in OF_OTHER_NETWORKS:
            continue
        try:
            made = {
                size: Engine(own, [few(kind)], Classes(classes=("b",)), size, {"background": images[:1]})
                for size in (1, 4)
            }
        except ConfigurationError:
            refused.add(kind)
            continue
        together = made[4].explain(images, IDS, record=record)
        alone = made[1].explain(images.flip(0), IDS[::-1], record=record.flip(0))
        whole[kind] = together.outputs["attribution_record"].isfinite().all()
        for name in ("attribution", "attribution_record", "modality_share"):
            one, other = together.outputs[name], alone.outputs[name].flip(0)
            assert torch.allclose(one, other, rtol=1e-7, atol=1e-10, equal_nan=True), (kind, name)
        assert whole[kind] == (kind in ATTRIBUTING), kind
        assert together.outputs["modality_share"].isnan().all() != whole[kind]
    assert refused == REFUSED
    with pytest.raises(ConfigurationError, match="other backward rules, which the form PyTorch with a record"):
        Engine(own, [few("lrp")], Classes(classes=("b",)))
    with pytest.raises(ConfigurationError, match="smoothgrad: needs other backward rules"):
        explained(own, {"name": "smoothgrad", "of": "guided_backprop"})


def test_metrics_keep_the_record_that_an_image_has() -> None:
    """A curve over the same images with another record is another, and where it is the same, so is the curve."""
    own = network()
    images, record = given()
    engine = Engine(own, [few("saliency")], Classes(classes=("b",)), 3)
    maps = engine.explain(images, IDS, record=record).maps
    metrics = [METRICS.adapter.validate_python({"name": name}) for name in ("deletion", "max_sensitivity")]

    def curve(beside: Tensor) -> Tensor:
        return evaluate(engine, metrics, images, IDS, maps, record=beside)[0].curves["probability"]

    with torch.no_grad():
        ends = [own.module(part, record).softmax(1)[:, 1] for part in (images, torch.zeros_like(images))]
    assert torch.allclose(curve(record)[:, 0, 0, [0, -1]].double(), torch.stack(ends, 1), atol=1e-6)
    assert not torch.allclose(curve(record), curve(record.flip(0)))
    with pytest.raises(ConfigurationError, match="the record has a part in the logit"):
        evaluate(
            engine, [METRICS.adapter.validate_python({"name": "completeness_gap"})], images, IDS, maps, record=record
        )


class Embedded(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.sex = AttentionGatedClassifier(2, 1, 3, (4, 4, 4, 4)), nn.Embedding(2, 3)

    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        return self.image(images) * record[:, :1].cos() + self.sex(record[:, 1].long())


def test_a_field_without_a_gradient_is_refused_by_name_where_gradients_would_tell_of_it() -> None:
    own = network(Embedded(), FIELDS[:2])
    with pytest.raises(ConfigurationError, match="saliency: Embedded decides by sex in steps"):
        Engine(own, [few("saliency")], Classes(classes=("b",)))
    images, record = given()
    engine = Engine(own, [few("occlusion"), few("smoothgrad")], Classes(classes=("b",)))
    values = engine.explain(images, IDS, record=record[:, :2]).outputs["attribution_record"]
    assert (values[:, 0, 0, 1] != 0).tolist() == [False, True, True, False] and values[:, 0, 1].isnan().all()


class InPlace(JointFusionClassifier):
    def forward(self, images: Tensor, record: Tensor) -> Tensor:
        record -= 1
        return super().forward(images, record)


MODULES: dict[str, tuple[Callable[[], nn.Module], tuple[RecordField, ...], str]] = {
    "no record is taken": (
        lambda: AttentionGatedClassifier(2, 1, 3, (4, 4, 4, 4)), FIELDS,
        "cohort.record: AttentionGatedClassifier takes an image alone: leave cohort.record out",
    ),
    "a record is needed": (
        lambda: JointFusionClassifier(2, 1, 3, 3, (4, 4, 4, 4)), (), "takes a second input .* in cohort.record",
    ),
    "other fields are taken": (
        lambda: JointFusionClassifier(2, 1, 3, 2, (4, 4, 4, 4)), FIELDS, r"of shape \(1, 3\) \(cohort.record\)",
    ),
    "a record is changed": (
        lambda: InPlace(2, 1, 3, 3, (4, 4, 4, 4)), FIELDS, "changes its input in place",
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", MODULES)
def test_modules_that_do_not_fit_the_record_are_refused(what: str) -> None:
    make, fields, said = MODULES[what]
    with pytest.raises(ConfigurationError, match=said):
        network(make(), fields)


def test_a_network_is_not_asked_without_the_record_that_it_takes() -> None:
    engine = Engine(network(), [few("saliency")], Classes(classes=("b",)))
    with pytest.raises(ConfigurationError, match=r"takes a record of shape \(3, 3\) beside 3 images"):
        engine.explain(given()[0][:3], IDS[:3])


@pytest.mark.parametrize(
    ("field", "cells", "numbers"),
    [
        ({"name": "age"}, ["61", " 7.5e1".strip(), "-.5", None], [61, 75, -0.5, "has no 'age'"]),
        ({"name": "age"}, ["old", "1_0", "nan", "inf", "1e400"], ["is no number"] * 4 + ["too large"]),
        ({"name": "age", "fill": 60, "mean": 50, "scale": 10}, ["61", None], [1.1, 1.0]),
        (
            {"name": "sex", "values": {"F": 0, "M": 1}},
            ["F", "M", "female", "f", None],
            [0, 1, "none of", "none of", "no 'sex'"],
        ),
        ({"name": "grade", "values": {"1": 0.5, "2": 1}, "fill": "2"}, ["1", "1.0", None], [0.5, 0.5, 1]),
        ({"name": "hôpital", "values": {"Orléans": 3}}, ["Orle\u0301ans"], [3]),
    ],
)
def test_cells_become_numbers_or_say_why_not(field: dict[str, Any], cells: list[str], numbers: list[Any]) -> None:
    own = RecordField(**field)
    for cell, expected in zip(cells, numbers, strict=True):
        if isinstance(expected, str):
            with pytest.raises(ValueError, match=expected) as error:
                own.number(cell)
            assert cell is None or len(cell) == 1 or cell not in str(error.value)
        else:
            assert own.number(cell) == torch.tensor(expected, dtype=torch.float32).item()


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ({"name": "sex", "values": {"F": 0}, "fill": "M"}, "the fill of 'sex' is 'M': state one of F"),
        ({"name": "age", "baseline": "old"}, "the baseline of 'age' is 'old': state a number"),
        ({"name": "age", "scale": 0.0}, "greater than 0"),
        ({"name": "age", "unit": "y"}, "Extra inputs"),
    ],
)
def test_fields_that_cannot_be_are_refused(field: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        RecordField(**field)


def test_what_stands_in_for_a_field_is_its_baseline_its_fill_or_zero() -> None:
    assert [field.reference for field in FIELDS] == [1.5, 0, 2]
    assert record_digest((1.0, 0.1)) == record_digest((1.0, float(torch.tensor(0.1)))) != record_digest((0.1, 1.0))


def test_saliency_of_captum_agrees_where_the_record_comes_first() -> None:
    own = network()
    images, record = given()
    theirs = Saliency(lambda beside, seen: own.module(seen, beside)).attribute((record, images), 1, abs=False)
    found = explained(own, {"name": "saliency"}).outputs["attribution_record"][:, 0, 0]
    assert difference(found, theirs[0]) < 1e-12
