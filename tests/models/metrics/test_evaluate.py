"""All metrics together: what a value depends on, what is undefined, and what is refused."""

from functools import partial

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor, nn

from models.engine import Engine
from models.explainers.control_random import ControlRandom
from models.explainers.gradcam import GradCAM
from models.explainers.input_x_gradient import InputXGradient
from models.explainers.saliency import Saliency
from models.explainers.smoothgrad import SmoothGrad
from models.metrics import METRICS as REGISTRY
from models.metrics import Values, evaluate
from models.metrics.completeness import CompletenessGap
from models.metrics.deletion import Deletion
from models.metrics.efficient_mprt import EfficientMPRT
from models.metrics.infidelity import Infidelity
from models.metrics.sensitivity_n import SensitivityN
from models.metrics.smooth_mprt import SmoothMPRT
from models.network import Network
from models.targets import OverThreshold, Predicted, Region
from tests.models.metrics.cases import METRICS, NAMES, boxes, curved, images, names, network_of

close = partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6, equal_nan=True)
OF_DECISIONS = {"irof"}
"""Metrics that are undefined for the second class, since the network does not decide for that."""
EXPLAINERS = [Saliency(), GradCAM(layer="2"), SmoothGrad(samples=2), ControlRandom()]
OF = {2: (4, EXPLAINERS), 3: (3, [Saliency(), ControlRandom()])}
"""Images and explainers by dimensions: volumes are for the metrics' own arithmetic, and take long."""


def setting(dims: int) -> tuple[Network, Tensor, dict[str, Tensor]]:
    count, explainers = OF[dims]
    network, batch = curved(dims), images(dims, count)
    others = torch.randn(2, count, 2, len(explainers), *batch.shape[2:], generator=torch.Generator().manual_seed(9))
    given = {"masks": boxes(dims, count), "spacing": torch.ones(count, dims), "others": others}
    given["maps"] = Engine(network, explainers, Predicted(k=2)).explain(batch, names(count)).maps
    return network, batch, given


def part(given: dict[str, Tensor], rows: list[int]) -> dict[str, Tensor]:
    return {name: value[:, rows] if name == "others" else value[rows] for name, value in given.items()}


def everything(score: Values) -> Tensor:
    values = [score.value, *score.companions.values()]
    return torch.cat([torch.stack(values, -1), *score.curves.values()], -1)


@pytest.mark.parametrize("dims", [2, 3])
def test_a_value_depends_on_the_image_alone(dims: int) -> None:
    (count, explainers), (network, batch, given) = OF[dims], setting(dims)
    shape = (count, 2, len(explainers))
    together = evaluate(Engine(network, explainers, Predicted(k=2), 7), METRICS, batch, names(count), **given)
    for metric, score in zip(METRICS, together, strict=True):
        assert score.value.shape == shape and score.value.dtype == torch.float32, metric.name
        assert all(value.shape == shape for value in score.companions.values()), metric.name
        assert all(curve.shape == (*shape, len(score.points)) for curve in score.curves.values()), metric.name
        values = score.value[:, :1] if metric.name in OF_DECISIONS else score.value
        assert values.isfinite().all(), metric.name
        low, high = metric.range
        assert low - 1e-6 <= values.min() and values.max() <= high + 1e-6, metric.name
        assert len(values.unique()) > 1, metric.name
    rows = [2, 0]
    engine = Engine(network, explainers, Predicted(k=2), 3)
    ids = tuple(names(count)[row] for row in rows)
    for metric, score in zip(METRICS, together, strict=True):
        (other,) = evaluate(engine, [metric], batch[rows], ids, **part(given, rows))
        torch.testing.assert_close(
            everything(other), everything(score)[rows], rtol=1e-5, atol=1e-6, equal_nan=True, msg=metric.name
        )


@pytest.mark.parametrize("dims", [2, 3])
def test_constant_maps_are_evaluated_or_undefined_and_stop_nothing(dims: int) -> None:
    (count, explainers), (network, batch, given) = OF[dims], setting(dims)
    sound = evaluate(Engine(network, explainers, Predicted(k=2)), METRICS, batch, names(count), **given)
    given["maps"] = given["maps"].clone()
    given["maps"][0], given["maps"][1] = 0.0, 0.5
    scores = evaluate(Engine(network, explainers, Predicted(k=2)), METRICS, batch, names(count), **given)
    undefined = {"iou", "sensitivity_n", "repeatability", "reproducibility", "explainer_agreement"}
    undefined |= {"cascading_randomisation", "independent_randomisation", "label_randomisation"}
    undefined |= {"efficient_mprt", "random_logit"}
    for metric, score, before in zip(METRICS, scores, sound, strict=True):
        blank, constant, *rest = score.value[:, :1].isnan() if metric.name in OF_DECISIONS else score.value.isnan()
        assert not torch.stack(rest).any(), metric.name
        of_zeros = undefined | {"relevance_mass", "gini", "entropy", "max_sensitivity"}
        of_zeros |= {f"relative_{part}_stability" for part in ("input", "output", "representation")}
        assert blank.all() == (metric.name in of_zeros) and blank.any() == blank.all(), metric.name
        assert constant.all() == (metric.name in undefined) and constant.any() == constant.all(), metric.name
        torch.testing.assert_close(
            score.value[2:], before.value[2:], rtol=1e-5, atol=1e-6, equal_nan=True, msg=metric.name
        )


def test_where_there_is_no_map_there_is_no_value_and_no_question() -> None:
    network, batch, _ = setting(2)
    batch[1, 0, 0, 0] = torch.nan
    target = OverThreshold()
    engine = Engine(network, EXPLAINERS, target, 5)
    maps = engine.explain(batch, names(4)).maps
    there = maps.flatten(3).isfinite().all(-1)
    assert there.any() and not there[1].any() and not there[0].all()
    given = {"masks": boxes(2, 4), "spacing": torch.ones(4, 2), "others": torch.randn(2, *maps.shape)}
    for metric, score in zip(METRICS, evaluate(engine, METRICS, batch, names(4), maps, **given), strict=True):
        assert torch.equal(score.value.isfinite(), there), metric.name
        assert not everything(score)[~there].isfinite().any(), metric.name
    engine = Engine(network, EXPLAINERS, target, 5)
    evaluate(engine, METRICS[:1], batch, names(4), maps)
    distinct = there.sum().item()  # each image has one target, so that no map is there twice
    assert METRICS[0].name == "deletion"
    assert engine.forward_passes == 4 + 3 + 3 * distinct


ASK_NOTHING = {
    *("gini", "entropy", "relevance_rank", "relevance_mass", "hit_rate", "iou", "auprc"),
    *("explainer_agreement", "network_agreement", "repeatability", "reproducibility", "label_randomisation"),
}


def test_the_network_is_asked_when_a_metric_looks_at_its_answers_first() -> None:
    network, batch, given = setting(2)
    calls: list[int] = []
    network.module.register_forward_hook(lambda _, inputs, __: calls.append(len(inputs[0])))
    batch[1, 0, 0, 0] = torch.nan
    given["maps"][1] = torch.nan
    decided = network.module(batch.nan_to_num()).topk(2).indices
    given["target_class"] = torch.where(torch.arange(4)[:, None] == 2, decided.flip(1), decided)
    calls.clear()
    alone = {}
    for metric in METRICS:
        engine = Engine(network, EXPLAINERS, Predicted(k=2), 16)
        (alone[metric.name],) = evaluate(engine, [metric], batch, names(4), **given)
        assert (engine.forward_passes == 0) == (metric.name in ASK_NOTHING), metric.name
        assert bool(calls) == (metric.name not in ASK_NOTHING), metric.name
        calls.clear()
    silent = [metric for metric in METRICS if metric.name in ASK_NOTHING]
    engine = Engine(network, EXPLAINERS, Predicted(k=2), 16)
    for metric, score in zip(METRICS, evaluate(engine, METRICS, batch, names(4), **given), strict=True):
        if metric.name in ASK_NOTHING | {"deletion", "infidelity", "completeness_gap"}:
            assert torch.equal(everything(score).nan_to_num(7), everything(alone[metric.name]).nan_to_num(7))
    engine, asking = Engine(network, EXPLAINERS, Predicted(k=2), 16), METRICS[:1]
    evaluate(engine, asking, batch, names(4), **given)
    passes = engine.forward_passes
    evaluate(engine, [*silent, *asking, *silent], batch, names(4), **given)
    assert engine.forward_passes == 2 * passes  # the answers are remembered


def test_memory_that_does_not_suffice_halves_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    network, batch, given = setting(2)
    engine = Engine(network, EXPLAINERS, Predicted(k=2), 16)
    expected = evaluate(engine, METRICS, batch, names(4), **given)
    plain = type(network).__call__

    def cramped(self: Network, inputs: Tensor) -> Tensor:
        if len(inputs) > 3:
            raise torch.OutOfMemoryError
        return plain(self, inputs)

    monkeypatch.setattr(type(network), "__call__", cramped)
    for score, same in zip(evaluate(engine, METRICS, batch, names(4), **given), expected, strict=True):
        close(score.value, same.value)
    assert engine.batch_size <= 3


def test_every_metric_says_what_it_is() -> None:
    assert len(set(NAMES)) == len(NAMES) == 32
    for metric in METRICS:
        assert metric.family in {"faithfulness", "plausibility", "robustness", "complexity", "sanity", "agreement"}
        assert metric.better in {"higher", "lower", None}
        assert metric.range[0] < metric.range[1]
        source = str(type(metric).__doc__)
        assert "arXiv:" in source or "doi:" in source, metric.name
        assert metric.needs_masks == (metric.family == "plausibility")
    assert REGISTRY.adapter.validate_python({"name": "deletion", "label": "by blur", "fill": "blur"}).title == "by blur"
    with pytest.raises(ValidationError, match="extra"):
        REGISTRY.adapter.validate_python({"name": "gini", "patch": 3})


def test_maps_of_another_shape_are_refused() -> None:
    network, batch, given = setting(2)
    with pytest.raises(ValueError, match=r"the maps are \(4, 2, 4, 20, 16\), but these .* need \(4, 2, 3, 20, 16\)"):
        evaluate(Engine(network, EXPLAINERS[:3], Predicted(k=2)), METRICS[:1], batch, names(4), given["maps"])


def test_a_region_of_a_segmentation_is_evaluated_as_a_class_is() -> None:
    torch.manual_seed(0)
    network = network_of(nn.Conv2d(1, 2, 3, padding=1), 2, "softmax")
    batch, masks = images(2), boxes(2)
    engine = Engine(network, [InputXGradient(), ControlRandom()], Region(classes=("b",), of="mask"), 5)
    maps = engine.explain(batch, names(3), masks).maps
    metrics = [SensitivityN(patch=4), Infidelity(side=4), CompletenessGap(), Deletion(patch=4)]
    scores = [score.value[:, 0] for score in evaluate(engine, metrics, batch, names(3), maps, masks)]
    torch.testing.assert_close(scores[0][:, 0], torch.ones(3), rtol=1e-5, atol=1e-5)
    assert scores[1][:, 0].max() < 1e-10 < scores[1][:, 1].min()
    assert scores[2][:, 0].max() < 1e-5
    assert all(score.isfinite().all() for score in scores)
    assert (scores[3] <= 1).all() and (scores[3] >= 0).all()


def test_a_region_of_several_channels_is_explained_anew_and_hidden_in_segments() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.ReLU(), nn.Conv2d(3, 2, 3, padding=1))
    module[2].bias.data[1] += 0.5
    network = network_of(module, 2, "softmax", channels=2)
    batch, masks = torch.cat([images(2), images(2, seed=5)], 1), boxes(2)
    engine = Engine(network, [InputXGradient(), ControlRandom()], Region(classes=("b",), of="mask"), 5)
    maps = engine.explain(batch, names(3), masks).maps
    metrics = [metric for metric in METRICS if "relative" in metric.name or metric.name in ("random_logit", "irof")]
    metrics += [EfficientMPRT(), SmoothMPRT(samples=2)]
    scores = evaluate(engine, metrics, batch, names(3), maps, masks)
    found = dict(zip([metric.name for metric in metrics], scores, strict=True))
    decided = engine.batch(batch, names(3), masks).answers[0].decided
    for name, score in found.items():
        expected = decided[:, None, None].expand(3, 1, 2) if name == "irof" else torch.ones(3, 1, 2, dtype=torch.bool)
        assert torch.equal(score.value.isfinite(), expected), name
    for name in ("random_logit", "smooth_mprt"):
        torch.testing.assert_close(found[name].value[:, :, 1], torch.ones(3, 1))  # noise knows no class and no weights
    assert found["random_logit"].value[:, :, 0].max() < 0.99
    assert decided.any()
