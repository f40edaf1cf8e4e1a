"""The base of a metric: a number that says how far a map can be trusted, and the data that it is computed from."""

from collections.abc import Callable, Generator, Hashable
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from typing import Any, ClassVar, Literal, TypeVar

import torch
from pydantic import JsonValue
from scipy import ndimage
from torch import Tensor

from models.engine import Engine
from models.explainers.fill import filled
from models.network import Network
from models.outputs import EXPLAINER, IMAGE_ID, Axis, Computed, Frame, Output
from models.producer import Producer
from models.questions import Answer, Batch, Questions

METRIC, CURVE = "metric_", "curve_"
"""Beginnings of the names of outputs that hold a metric, and the curves that it is made of."""

Points = tuple[float, ...] | tuple[str, ...]
Family = Literal["faithfulness", "plausibility", "robustness", "complexity", "sanity", "agreement"]
Of = Literal["score", "probability", "decided"]
Fill = float | Literal["mean", "blur"]
T = TypeVar("T")


def positive(maps: Tensor) -> Tensor:
    """Keep the positive part of a signed map: it counts as evidence for the target."""
    return maps.clamp_min(0)


@dataclass(frozen=True)
class Values:
    """The values that a metric gives some maps.

    Attributes
    ----------
    value
        ``(image,)`` of one explainer's maps for one target, ``(image, target, explainer)`` of all; NaN where the metric
        is undefined.
    companions
        By name, the numbers that the value is to be read with, such as its chance level; shaped like `value`.
    curves
        By name, the curves that the value was made of, with the shape of `value` and a last axis of points.
    points
        The points of the curves: shares of the image, or names of layers.
    """

    value: Tensor
    companions: dict[str, Tensor] = field(default_factory=dict)
    curves: dict[str, Tensor] = field(default_factory=dict)
    points: tuple[float, ...] | tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Truth:
    """The places of the finding.

    Attributes
    ----------
    masks
        ``(image, *space)`` bool; empty where nothing is marked.
    spacing
        ``(image, axis)`` mm between neighbouring places; NaN where unknown. None if it is for all images.
    """

    masks: Tensor
    spacing: Tensor | None = None

    @cached_property
    def there(self) -> Tensor:
        """True where anything is marked: ``(image,)`` bool."""
        return self.masks.flatten(1).any(1)

    @cached_property
    def distance(self) -> Tensor:
        """Distance to the nearest marked place, ``(image, *space)`` mm; NaN without a mark or a known spacing."""
        distance = torch.full(self.masks.shape, torch.nan)
        spacing = torch.full((len(self.masks), 1), torch.nan) if self.spacing is None else self.spacing.cpu()
        for own, mask, sampling in zip(distance, self.masks.cpu().numpy(), spacing, strict=True):
            if mask.any() and sampling.isfinite().all():
                own[:] = torch.from_numpy(ndimage.distance_transform_edt(~mask, sampling.tolist()))
        return distance.to(self.masks.device)


@dataclass(frozen=True, eq=False)
class Explained:
    """The maps of some images, and everything that they are evaluated by.

    Attributes
    ----------
    engine
        The engine that asks the network, and explains anew with the explainers that made the maps.
    batch
        The images, and the network's answers about them.
    maps
        ``(image, target, explainer, *space)``; NaN where there is none.
    truth
        The masks; None where there are none.
    others
        ``(other, image, target, explainer, *space)``: maps of the same images by other networks.
    """

    engine: Engine
    batch: Batch
    maps: Tensor
    truth: Truth | None = None
    others: Tensor | None = None
    _known: dict[Hashable, Any] = field(default_factory=dict)

    @cached_property
    def defined(self) -> Tensor:
        """True where there is a map: ``(image, target, explainer)`` bool."""
        return self.maps.flatten(3).isfinite().all(-1)

    @cached_property
    def among(self) -> Tensor:
        """Indices of the images that have any map, ``(image,)``: the network is not asked about the others."""
        return self.defined.flatten(1).any(1).nonzero()[:, 0].to(self.batch.images.device)

    def once(self, key: Hashable, work_out: Callable[[], T]) -> T:
        """Look up a value that does not depend on the map: it is worked out for the first map, and remembered."""
        if key not in self._known:
            self._known[key] = work_out()
        return self._known[key]

    def last(self, key: Hashable, work_out: Callable[[Tensor, Tensor], Tensor], image: Tensor, step: Tensor) -> Tensor:
        """Look up values of some questions that do not depend on the map; remembered until others are asked."""
        before = self._known.get(("last", key))
        if before is None or not (torch.equal(before[0], image) and torch.equal(before[1], step)):
            before = self._known["last", key] = image, step, work_out(image, step)
        return before[2]

    def filled(self, fill: Fill) -> Tensor:
        """Hide every place of the images."""
        return self.once(("filled", fill), lambda: filled(self.batch.images, fill))


@dataclass(frozen=True, eq=False)
class Evaluated:
    """The maps of one explainer for one target.

    Attributes
    ----------
    same
        A key that is equal for equal maps, so that a question about several of them is asked once.
    """

    explained: Explained
    target: int
    explainer: int
    same: Hashable

    @property
    def batch(self) -> Batch:
        return self.explained.batch

    @property
    def among(self) -> Tensor:
        """Indices of the images that have a map, ``(image,)``."""
        return self.explained.defined[:, self.target, self.explainer].nonzero()[:, 0].to(self.batch.images.device)

    @property
    def truth(self) -> Truth:
        assert self.explained.truth is not None
        return self.explained.truth

    @property
    def maps(self) -> Tensor:
        """The maps, ``(image, *space)``; zeros where there is none."""
        return self.of(slice(None))

    def of(self, image: Tensor | slice) -> Tensor:
        """Take the maps of some images to the network's device."""
        stack = self.explained.maps[:, self.target, self.explainer]
        image = image.to(stack.device) if isinstance(image, Tensor) else image
        return stack[image].nan_to_num(0.0, 0.0, 0.0).to(self.batch.images)

    @property
    def before(self) -> Tensor:
        """The explained scalars of the images as they are, ``(image,)``."""
        return self.batch.answers[self.target].score

    def zeros(self, points: int) -> Tensor:
        """Make ``(image, point)`` in float64, since moments are taken of answers that differ by little."""
        return torch.zeros(len(self.batch.images), points, dtype=torch.float64, device=self.batch.images.device)


Evaluating = Generator[Questions, None, Values]


def ask(
    evaluated: Evaluated,
    points: int,
    make: Callable[[Tensor, Tensor], Tensor],
    key: Hashable,
    of: Of,
    each_map: bool = True,
) -> Generator[Questions, None, Tensor]:
    """Ask `points` questions about each image, and return the target's answers ``(image, point)``.

    Questions that do not depend on the map (`each_map` is false) are asked once for all maps.
    """
    key, among = ((key, evaluated.same), evaluated.among) if each_map else (key, evaluated.explained.among)
    found = evaluated.zeros(points)

    def fold(answer: Answer) -> None:
        if answer.target == evaluated.target:
            found[answer.image, answer.step] = getattr(answer, of).double()

    yield Questions(points, make, fold, key=key, among=among)
    return found


def ask_hidden(
    evaluated: Evaluated, fill: float | Literal["mean", "blur"], of: Of
) -> Generator[Questions, None, Tensor]:
    """Ask about the images with every place hidden; return the answers, ``(image, 1)``.

    This question comes before all others, so that it is asked once for all maps and metrics.
    """
    filled = evaluated.explained.filled(fill)
    return (yield from ask(evaluated, 1, lambda image, _: filled[image], ("hidden", fill), of, each_map=False))


class Metric(Producer):
    """A named number that says how far maps can be trusted; its fields are its parameters.

    Attributes
    ----------
    family
        The metric's family; families are never added up to one score.
    better
        The values that speak for the map; None if neither higher nor lower ones do by themselves.
    range
        The least and the largest value.
    needs_masks, needs_others
        Whether maps are compared with the places of the finding, and with maps of other networks.
    companions
        Names of the numbers that the value is to be read with, such as its chance level.
    only_named
        Whether the metric is computed only when it is named: it makes every map several times, which takes as long,
        or the other networks must be of a certain kind.
    """

    family: ClassVar[Family]
    better: ClassVar[Literal["higher", "lower"] | None] = None
    range: ClassVar[tuple[float, float]]
    needs_masks: ClassVar[bool] = False
    needs_others: ClassVar[bool] = False
    only_named: ClassVar[bool] = False
    companions: ClassVar[tuple[str, ...]] = ()

    @property
    def needs_spacing(self) -> bool:
        """True where the metric needs the distance between places in mm."""
        return False

    def check(self, network: Network) -> None:
        """Raise ConfigurationError if the metric has no meaning on this network."""

    def curves(self, frame: Frame, network: Network) -> dict[str, Points]:
        """Name the curves that the value is made of, and give their points."""
        return {}

    @property
    def variable(self) -> str:
        return f"{METRIC}{self.title}"

    def declare(self, frame: Frame, network: Network) -> tuple[Output, ...]:
        """Declare the value, the numbers that it is to be read with, and the curves that it is made of."""
        of = (IMAGE_ID, "target", EXPLAINER)
        about: dict[str, JsonValue] = {
            "family": self.family,
            "better": self.better or "none",
            "references": self.references,
            **self._limits(),
        }
        value = Output(
            name=self.variable,
            dims=of,
            kind="metric",
            long_name=self.title.replace("_", " "),
            attrs=about,
        )
        companions = [
            Output(
                name=f"{self.variable}_{name}",
                dims=of,
                kind="companion",
                long_name=f"{self.title}: {name}",
                attrs={"companion_of": self.variable},
            )
            for name in self.companions
        ]
        curves = [
            Output(
                name=f"{CURVE}{self.title}_{name}",
                dims=(*of, f"point_{self.title}"),
                kind="curve",
                long_name=f"{self.title}: {name}",
                attrs={"metric": self.title, "curve": name},
                axes=(
                    Axis(name=f"point_{self.title}", labels=points, long_name=f"point of the curves of {self.title}"),
                ),
            )
            for name, points in self.curves(frame, network).items()
        ]
        return (value, *companions, *curves)

    def _limits(self) -> dict[str, JsonValue]:
        """Name the limits as CF does; there is no name for one that is infinite."""
        limits = dict(zip(("valid_min", "valid_max"), map(float, self.range), strict=True))
        if all(map(isfinite, limits.values())):
            return {"valid_range": list(limits.values())}
        return {name: limit for name, limit in limits.items() if isfinite(limit)}

    def by_output(self, values: Values) -> Computed:
        """Arrange the values of some maps by name of the output."""
        return {
            self.variable: values.value,
            **{f"{self.variable}_{name}": companion for name, companion in values.companions.items()},
            **{f"{CURVE}{self.title}_{name}": curve for name, curve in values.curves.items()},
        }


class MapMetric(Metric):
    """A metric of each map by itself, which may put questions to the network."""

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        """Yield questions, whose answers have been folded when the generator goes on; return ``(image,)`` values."""
        yield from ()
        return Values(self.value(evaluated))

    def value(self, evaluated: Evaluated) -> Tensor:
        """Return ``(image,)`` values, for a metric that asks nothing."""
        raise NotImplementedError


class StackMetric(Metric):
    """A metric that looks at several maps together, or explains anew."""

    def compare(self, explained: Explained) -> Values:
        """Return ``(image, target, explainer)`` values."""
        raise NotImplementedError
