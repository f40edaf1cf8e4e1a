"""Declarations hold for what is computed: names, shapes and points; and the registries of what there is."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from math import inf, nan
from typing import Any, Literal

import numpy as np
import pytest
import torch
from monai.networks.nets import ViT
from numpy.typing import NDArray
from pydantic import BaseModel, ValidationError
from torch import Tensor, nn

from models.engine import Engine
from models.errors import ConfigurationError
from models.explainers import EXPLAINERS, Explainer, ExplainerConfig, MapExplainer
from models.explainers.base import CHANNEL_MAPS, CHANNEL_SHARE, MAP_FLAGS, MAPS
from models.explainers.gradcam import GradCAM
from models.explainers.saliency import Saliency
from models.fits import FITS, Fit
from models.metrics import METRICS, MapMetric, Metric, MetricConfig, evaluate, standard
from models.network import Network
from models.networks import AttentionGatedClassifier, BcosClassifier, PrototypeClassifier
from models.networks.bag_of_slices import BagOfSlices
from models.outputs import EXPLAINER, IMAGE_ID, Axis, Computed, Frame, Output, joined, shape_of
from models.prediction import declare_prediction, declare_source
from models.producer import Producer, Registry
from models.questions import Answer
from models.results import RESULTS, MeanMaps, Result
from models.targets import Classes, Predicted, Region
from models.uncertainty import MCDropout, TestTimeAugmentation, Uncertainty, ask_members
from tests.models.metrics import cases
from tests.models.networks import STANDARD, few, names, wrap

SIDES = {2: (32, 24), 3: (6, 32, 32)}
NETWORKS: dict[str, Callable[[], Network]] = {
    "convolutions": lambda: wrap(
        nn.Sequential(
            *(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.Dropout2d(0.5), nn.Conv2d(4, 6, 3, padding=1), nn.ReLU()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)),
        ),
        shape=SIDES[2],
    ),
    "gates": lambda: wrap(AttentionGatedClassifier(2, 1, 4), shape=SIDES[2]),
    "tokens": lambda: wrap(ViT(1, SIDES[2], 8, hidden_size=24, mlp_dim=32, num_layers=2, num_heads=3,
                               classification=True, num_classes=4, spatial_dims=2, post_activation="none"),
                           shape=SIDES[2]),
    "prototypes": lambda: wrap(PrototypeClassifier(2, 1, 4), shape=SIDES[2]),
    "bcos": lambda: wrap(BcosClassifier(2, 1, 4), shape=SIDES[2]),
    "slices": lambda: wrap(BagOfSlices(1, 4), 3, shape=SIDES[3]),
    "segments": lambda: wrap(nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.Dropout2d(0.5)), shape=SIDES[2]),
}  # fmt: skip
STATED: dict[str, dict[str, Any]] = {"rcv": {"measures": ("age",)}, "tcav": {"concepts": ("striped",)}}
"""Parameters that have to be stated."""
B_AND_D = Classes(classes=("b", "d"))
UNCERTAINTY = (MCDropout(samples=2), TestTimeAugmentation(samples=2, label="views"))


def network_of(kind: str, activation: str = "softmax") -> Network:
    torch.manual_seed(3)
    network = NETWORKS[kind]()
    network.config = network.config.model_copy(update={"activation": activation})
    return network


def images(network: Network, count: int = 3) -> Tensor:
    shape = (count, 1, *network.config.input_shape)
    return torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))


def engine_for(explainer: Explainer) -> Engine:
    """An engine on the first network that the explainer is right on, with the artefacts that it uses."""
    for kind in ("convolutions", "gates", "tokens", "slices", "prototypes", "bcos"):
        network = network_of(kind)
        fitted: Computed = {}
        for fit in explainer.fits:
            fitted |= fit().compute(network, images(network, 2).flip(-1))
        try:
            return Engine(network, [explainer], B_AND_D, 8, fitted)
        except ConfigurationError:
            continue
    raise AssertionError(f"no network is right for {explainer.name}")


def frame_of(engine: Engine) -> Frame:
    network = engine.network
    return Frame(
        classes=network.config.classes,
        targets=engine.target.labels(network.config.classes),
        explainers=tuple(explainer.title for explainer in engine.explainers),
        channels=("grey",),
        grid=network.config.input_shape,
        activation=network.config.activation,
        segments=network.segments,
    )


def check(found: Computed, declared: dict[str, Output], frame: Frame, count: int = 3) -> None:
    """Compare names and shapes; every declaration can be written down."""
    assert found.keys() == declared.keys()
    for name, output in declared.items():
        shape = shape_of(output, frame)
        assert tuple(found[name].shape) == ((count, *shape) if output.per_image else shape), name
        assert survives(output)


def survives(output: Output) -> bool:
    return Output.model_validate_json(output.model_dump_json()) == output


@pytest.mark.parametrize("keeps", [False, True])
@pytest.mark.parametrize("name", STANDARD)
def test_an_explainer_returns_what_it_declares(name: str, keeps: bool) -> None:
    explainer = few(name)
    engine = engine_for(explainer)
    batch = images(engine.network)
    frame = replace(frame_of(engine), keeps_channels=keeps)
    declared = joined(explainer.declare(frame, engine.network))
    assert all(output.per_image for output in declared.values())
    asked = replace(engine.batch(batch, names(batch)), keeps_channels=keeps)
    (found,) = engine.answer(asked, [explainer.produce(asked)])
    if isinstance(explainer, MapExplainer):
        beside = {name for name, output in declared.items() if output.kind == "vector"}
        assert found.keys() == {MAPS, MAP_FLAGS, *beside, *([CHANNEL_MAPS, CHANNEL_SHARE] if keeps else [])}
        assert all(
            output.axes[0].labels == (explainer.title,) for output in declared.values() if EXPLAINER in output.dims
        )
        found = {name: values if name in beside else values[:, :, None] for name, values in found.items()}
    check(found, declared, frame)


@pytest.mark.parametrize("name", FITS.kinds)
def test_a_fit_computes_what_it_declares(name: str) -> None:
    fit = FITS.kinds[name]()
    network = network_of("convolutions")
    frame = frame_of(Engine(network, [], B_AND_D))
    declared = joined(fit.declare(frame, network, 3))
    assert not any(output.per_image for output in declared.values())
    check(fit.compute(network, images(network)), declared, frame)


@pytest.mark.parametrize("kind", ["convolutions", "segments"])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity"])
def test_the_engine_returns_the_prediction_as_it_is_declared(kind: str, activation: str) -> None:
    network = network_of(kind, activation)
    target = Region(classes=("b", "d")) if network.segments else B_AND_D
    engine = Engine(network, [Saliency(), GradCAM(layer="0", label="first")], target)
    batch, frame = images(network), frame_of(engine)
    declared = joined(declare_prediction(frame), *(one.declare(frame, network) for one in engine.explainers))
    found = engine.explain(batch, names(batch)).outputs
    check({name: values for name, values in found.items() if name in declared}, declared, frame)
    assert found.keys() - declared.keys() == ({"probability"} if activation == "identity" else set())


@pytest.mark.parametrize("dims", [2, 3])
def test_a_metric_returns_what_it_declares(dims: int) -> None:
    network, batch = cases.curved(dims), cases.images(dims)
    engine = Engine(network, [Saliency(), GradCAM(layer="2")], Predicted(k=2), 7)
    maps = engine.explain(batch, cases.names(3)).maps
    others = torch.randn(2, *maps.shape, generator=torch.Generator().manual_seed(9))
    found = evaluate(engine, cases.METRICS, batch, cases.names(3), maps, cases.boxes(dims), torch.ones(3, dims), others)
    frame = frame_of(engine)
    for metric, values in zip(cases.METRICS, found, strict=True):
        declared = joined(metric.declare(frame, network))
        check(metric.by_output(values), declared, frame)
        assert {output.dtype for output in declared.values()} == {str(values.value.dtype).removeprefix("torch.")}
        assert set(values.companions) == set(metric.companions), metric.name
        points = metric.curves(frame, network)
        assert points.keys() == values.curves.keys(), metric.name
        assert all(own == values.points for own in points.values()), metric.name
        assert {axis.labels for output in declared.values() for axis in output.axes} == set(points.values())


@pytest.mark.parametrize("explainers", [(Saliency(), GradCAM(layer="0")), ()])
@pytest.mark.parametrize("activation", ["softmax", "sigmoid", "identity"])
@pytest.mark.parametrize("kind", ["convolutions", "segments"])
@pytest.mark.parametrize("uncertainty", UNCERTAINTY, ids=lambda one: one.name)
def test_an_uncertainty_returns_what_it_declares(
    uncertainty: Uncertainty, kind: str, activation: str, explainers: tuple[Explainer, ...]
) -> None:
    network = network_of(kind, activation)
    engine = Engine(network, explainers, Region(classes=("b", "d")) if network.segments else B_AND_D)
    batch = engine.batch(images(network), names(images(network)))
    spread = ask_members(engine, uncertainty.members(network), batch)
    check(uncertainty.by_output(spread), joined(uncertainty.declare(frame_of(engine))), frame_of(engine))


def needs_no_field(kind: type[Producer]) -> bool:
    return not any(field.is_required() for field in kind.model_fields.values())


def test_names_of_outputs_are_unique_over_all_that_is_standard() -> None:
    engine = Engine(network_of("convolutions"), [Saliency()], B_AND_D)
    frame, network = frame_of(engine), engine.network
    declared = [*declare_source(frame), *declare_prediction(frame), *Saliency().declare(frame, network)]
    declared += [output for metric in standard() for output in metric.declare(frame, network)]
    declared += [output for kind in UNCERTAINTY for output in kind.declare(frame)]
    results = [
        RESULTS.adapter.validate_python({"name": name, **STATED.get(name, {})})
        for name, kind in RESULTS.kinds.items()
        if name in STATED or needs_no_field(kind)
    ]
    declared += [output for result in results for output in result.declare(frame)]
    declared += [output for fit in FITS.kinds.values() for output in fit().declare(frame, network, 2)]
    assert len({output.name for output in declared}) == len(declared)
    assert len(joined(declared)) == len(declared)
    assert all(survives(output) for output in declared)


def test_joined_appends_along_explainer_and_refuses_what_is_declared_twice() -> None:
    network = network_of("convolutions")
    frame = frame_of(Engine(network, [Saliency(), GradCAM(label="cam")], B_AND_D))
    one, other = (kind.declare(frame, network) for kind in (Saliency(), GradCAM(label="cam")))
    both = joined(one, other)
    assert list(both) == [MAPS, MAP_FLAGS]
    assert all(output.axes == (Axis(name=EXPLAINER, labels=("saliency", "cam"), long_name="explainer"),)
               for output in both.values())  # fmt: skip
    assert joined(other, one)[MAPS].axes[0].labels == ("cam", "saliency")
    assert both[MAPS].model_copy(update={"axes": ()}) == one[0].model_copy(update={"axes": ()})
    gini = METRICS.kinds["gini"]()
    with pytest.raises(ConfigurationError, match=r"'metric_gini' is declared twice.*another `label`"):
        joined(gini.declare(frame, network), one, gini.declare(frame, network))
    for change in ({"units": "mm"}, {"dims": one[0].dims[:-1]}, {"mantissa": None}):
        with pytest.raises(ConfigurationError, match="'attribution' is declared twice"):
            joined(one, [other[0].model_copy(update=change)])


@pytest.mark.parametrize(
    "output",
    [
        Output(name="a", dims=(), kind="result", long_name="one number"),
        Output(name="b", dims=(IMAGE_ID,), kind="flags", long_name="bits", dtype="uint8", fill=0, flags={"x": 1}),
        Output(name="c", dims=("layer",), kind="vector", long_name="by layer, of which the names are digits",
               axes=(Axis(name="layer", labels=("6", "2", "0")),)),
        Output(name="d", dims=("share",), kind="curve", long_name="by share",
               axes=(Axis(name="share", labels=(0.0, 0.5, 1.0), long_name="share of the image"),)),
        Output(name="e", dims=("nothing",), kind="artefact", long_name="none", axes=(Axis(name="nothing", labels=()),)),
        Output(name="f", dims=("place",), kind="artefact", long_name="many", axes=(Axis(name="place", labels=7),),
               dtype="float64", mantissa=7, required=True, units="mm"),
        Output(name="g", dims=(), kind="metric", long_name="with attributes", fill=-1.5,
               attrs={"valid_min": 0.0, "deep": {"text": None, "list": [True, 1, "a"]}}),
    ],
    ids=lambda output: output.name,
)  # fmt: skip
def test_an_output_survives_json(output: Output) -> None:
    again = Output.model_validate_json(output.model_dump_json())
    assert again == output and hash(again.axes) == hash(output.axes)
    assert [type(label) for axis in again.axes for label in np.atleast_1d(axis.labels)] == [
        type(label) for axis in output.axes for label in np.atleast_1d(axis.labels)
    ]
    assert again.cf_attrs.keys() == output.cf_attrs.keys()


@pytest.mark.parametrize("number", [inf, -inf, nan])
def test_what_json_cannot_hold_is_no_part_of_an_output(number: float) -> None:
    known: dict[str, Any] = {"name": "a", "dims": ("share",), "kind": "metric", "long_name": "a"}
    for more in ({"attrs": {"valid_range": [0.0, number]}}, {"fill": number}):
        with pytest.raises(ValidationError, match=r"not JSON compliant|finite_number"):
            Output(**known, **more)
    with pytest.raises(ValidationError, match="finite_number"):
        Axis(name="share", labels=(0.0, number))


def test_a_metric_names_the_limits_that_it_has() -> None:
    engine = Engine(network_of("convolutions"), [Saliency()], B_AND_D)
    seen = set()
    for metric in standard():
        attrs = metric.declare(frame_of(engine), engine.network)[0].attrs
        least, most = metric.range
        limits = {name: value for name, value in attrs.items() if name.startswith("valid")}
        expected: dict[str, Any] = {"valid_min": least} if least > -inf else {}
        expected |= {"valid_max": most} if most < inf else {}
        assert limits == ({"valid_range": [least, most]} if len(expected) == 2 else expected), metric.name
        seen.add(tuple(limits))
    assert seen == {("valid_range",), ("valid_min",), ("valid_max",), ()}


class Bright(MapExplainer):
    """Its map is the image."""

    name: Literal["bright"] = "bright"
    times: tuple[float, ...] = (1.0,)

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        return answer.inputs.mean(1) * self.times[0]


class Dark(MapMetric):
    name: Literal["dark"] = "dark"


class Own(Fit):
    name: Literal["own"] = "own"


class Sum(Result):
    name: Literal["sum"] = "sum"


class Config(BaseModel):
    """Built before any kind is added."""

    explainers: tuple[ExplainerConfig, ...] = ()
    metrics: tuple[MetricConfig, ...] = ()


@pytest.fixture
def bright() -> Iterator[type[Bright]]:
    yield EXPLAINERS.add(Bright)
    EXPLAINERS.kinds.pop("bright", None)
    EXPLAINERS.__dict__.pop("adapter", None)


def test_an_added_kind_is_taken_by_a_model_that_was_built_before(bright: type[Bright]) -> None:
    config = Config.model_validate({"explainers": [{"name": "bright", "times": (2.0,)}, {"name": "saliency"}]})
    assert config.explainers == (Bright(times=(2.0,)), Saliency())
    assert Config(explainers=(Bright(), Saliency())).explainers == (Bright(), Saliency())
    assert "'bright'" in str(Config.model_json_schema())
    EXPLAINERS.remove(bright)
    assert "bright" not in EXPLAINERS.kinds and "'bright'" not in str(Config.model_json_schema())
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"explainers": [{"name": "saliency"}, {"name": "bright"}]})
    (error,) = refused.value.errors()
    assert (error["type"], error["loc"]) == ("union_tag_invalid", ("explainers", 1))
    assert error["ctx"]["tag"] == "bright"
    assert error["ctx"]["expected_tags"].split(", ") == [f"'{name}'" for name in EXPLAINERS.kinds]


@pytest.mark.parametrize(
    ("registry", "added"),
    [(EXPLAINERS, Bright), (METRICS, Dark), (FITS, Own), (RESULTS, Sum)],
    ids=["explainers", "metrics", "fits", "results"],
)
def test_every_registry_takes_a_kind_and_takes_it_back(registry: Registry[Any], added: type[Any]) -> None:
    before = dict(registry.kinds)
    assert registry.add(added) is added
    try:
        name = added.model_fields["name"].default
        assert isinstance(registry.adapter.validate_python({"name": name}), added)
        for known, kind in before.items():
            if known in STATED or needs_no_field(kind):
                assert type(registry.adapter.validate_python({"name": known, **STATED.get(known, {})})) is kind
    finally:
        registry.remove(added)
    assert registry.kinds == before
    with pytest.raises(ValidationError):
        registry.adapter.validate_python({"name": name})


def test_errors_say_the_field_of_a_kind() -> None:
    with pytest.raises(ValidationError) as refused:
        Config.model_validate({"explainers": [{"name": "rise", "samples": 0}], "metrics": [{}]})
    samples, no_name = refused.value.errors()
    assert samples["loc"] == ("explainers", 0, "rise", "samples") and samples["type"] == "greater_than_equal"
    assert no_name["loc"] == ("metrics", 0) and no_name["type"] == "union_tag_not_found"


@pytest.mark.parametrize(
    "one",
    [
        *(few(name) for name in STANDARD),
        *(EXPLAINERS.adapter.validate_python(one) for one in (
            {"name": "occlusion", "window": [4, 5], "stride": (2, 3), "label": "small windows"},
            {"name": "lrp", "rules": [{"rule": "epsilon"}]},
        )),
        *cases.METRICS,
        *(METRICS.adapter.validate_python(one) for one in (
            {"name": "independent_randomisation", "layers": ["6", "0"]},
            {"name": "sensitivity_n", "shares": [0.5, 0.6]},
        )),
    ],
    ids=lambda one: one.title,
)  # fmt: skip
def test_a_producer_survives_json_in_a_model(one: Explainer | Metric) -> None:
    config = Config(metrics=(one,)) if isinstance(one, Metric) else Config(explainers=(one,))
    assert Config.model_validate_json(config.model_dump_json()) == config
    assert Config.model_validate(config.model_dump(mode="json")) == config
    assert Config.model_validate(config.model_dump()) == config


@dataclass(frozen=True)
class StoredMaps:
    """A cohort as a result sees it, in memory, in shards of four."""

    frame: Frame
    arrays: dict[str, NDArray[Any]]
    explained: NDArray[np.bool_]

    @property
    def ids(self) -> Sequence[str]:
        return [f"id-{row}" for row in range(len(self.explained))]

    labels = subjects = ids

    def blocks(self, *names: str) -> Iterator[tuple[slice, dict[str, NDArray[Any]]]]:
        for start in range(0, len(self.explained), 4):
            rows = slice(start, min(start + 4, len(self.explained)))
            yield rows, {name: self.arrays[name][rows] for name in names}


@pytest.mark.parametrize("grid", [(5, 4), (3, 5, 4)])
def test_mean_maps_are_those_of_a_plain_loop(grid: tuple[int, ...]) -> None:
    frame = Frame(("a", "b", "c"), ("first", "second"), ("one", "two"), ("grey",), grid, "softmax")
    drawn = np.random.default_rng(1)
    sizes = 10.0 ** drawn.integers(-6, 6, (10, 2, 2, *[1] * len(grid)))
    maps = (drawn.normal(size=(10, 2, 2, *grid)) * sizes).astype(np.float32)
    classes = drawn.integers(0, 2, (10, 2)).astype(np.int32)  # none is c
    maps[1, 0, 1] = 0  # blank
    maps[2, 1, 0].flat[3] = np.nan
    maps[3, 0, 0].flat[0] = np.inf
    maps[4, 1], classes[4, 1] = np.nan, -1  # the image has no such target
    explained = np.ones(10, bool)
    for row in (5, 9):
        maps[row], classes[row], explained[row] = np.nan, -1, False
    stored = StoredMaps(frame, {MAPS: maps, "target_class": classes}, explained)
    result = MeanMaps(label="means")
    means, counts = np.full((3, 2, *grid), np.nan), np.zeros((3, 2), int)
    for index in range(3):
        for explainer in range(2):
            scaled = []
            for row in range(10):
                for target in range(2):
                    own = stored.arrays[MAPS][row, target, explainer].astype(float)
                    if explained[row] and classes[row, target] == index and np.isfinite(own).all() and own.any():
                        scaled.append(own / np.abs(own).mean())
            counts[index, explainer] = len(scaled)
            if scaled:
                means[index, explainer] = np.mean(scaled, axis=0)
    found = result.compute(stored)
    np.testing.assert_allclose(found["means"], means, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(found["means_count"], counts)
    assert counts.sum() == 2 * 2 * 8 - 3 - 2 and not counts[2].any() and np.isnan(found["means"][2]).all()
    declared = joined(result.declare(frame))
    check({name: torch.from_numpy(values) for name, values in found.items()}, declared, frame)
    assert all(found[name].dtype == output.dtype for name, output in declared.items())
    result.check({name: declared["means"] for name in (*result.reads(), "logit")})
    with pytest.raises(ConfigurationError, match="results: means is computed from attribution, which no explainer"):
        result.check({"target_class": declared["means"]})
