"""The evaluation of maps by several metrics together."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from hashlib import blake2b

import torch
from torch import Tensor

from models.engine import Engine
from models.errors import ConfigurationError
from models.metrics.base import Evaluated, Explained, MapMetric, Metric, StackMetric, Truth, Values
from models.questions import Batch, Needs, PlainAnswers


def evaluate(
    engine: Engine,
    metrics: Sequence[Metric],
    images: Tensor,
    ids: Sequence[str],
    maps: Tensor,
    masks: Tensor | None = None,
    spacing: Tensor | None = None,
    others: Tensor | None = None,
    target_class: Tensor | None = None,
    record: Tensor | None = None,
) -> list[Values]:
    """Evaluate the maps that an engine made, now or earlier.

    The questions of a metric about all maps go out together: batches are full, and equal questions are asked once.
    Metrics come one after the other, so that no value depends, in its last bits, on the other metrics of the call.

    Parameters
    ----------
    engine
        The engine of the explainers that made the maps, in their order, with the same network and target.
    images, ids
        ``(image, channel, *space)`` as the network takes them, and the names that the maps were made under.
    maps
        ``(image, target, explainer, *space)``; NaN where there is none.
    masks
        ``(image, *space)`` bool; empty where an image has none.
    spacing
        ``(image, axis)`` mm between neighbouring places, NaN where unknown.
    others
        ``(other, image, target, explainer, *space)``, maps of the same images by other networks.
    target_class
        ``(image, target)``, the classes that the maps explain; None if the target is to choose again.
    record
        ``(image, field)``, what the network takes beside the images.

    Returns
    -------
    list of Values
        One a metric, ``(image, target, explainer)`` float32 on the CPU; NaN where there is no map.

    Raises
    ------
    ConfigurationError
        If a metric lacks the masks, spacing or maps that it compares with, or has no meaning on the network.
    """
    _check(engine, metrics, images, maps, masks, spacing, others)
    batch = as_explained(engine, images, ids, masks, target_class, record)
    device = batch.images.device
    truth = None if masks is None else Truth(masks.to(device), spacing)
    explained = Explained(engine, batch, maps, truth, others)
    scores = [
        metric.compare(explained) if isinstance(metric, StackMetric) else _evaluate(explained, metric)
        for metric in metrics
    ]
    return [_where_defined(score, explained.defined) for score in scores]


def as_explained(
    engine: Engine,
    images: Tensor,
    ids: Sequence[str],
    masks: Tensor | None,
    target_class: Tensor | None,
    record: Tensor | None = None,
) -> Batch:
    """Make a batch of images whose maps are there, which stays with the classes that the maps explain.

    On another machine the network may decide otherwise where probabilities are nearly equal, or near a half.
    """
    batch = engine.batch(images, ids, masks, needs=Needs(), record=record)

    @cache
    def plain() -> PlainAnswers:
        chosen = batch.chosen
        if target_class is None or torch.equal(chosen.classes, target_class.to(chosen.classes)):
            return batch.plain()
        chosen = replace(chosen, classes=target_class.to(chosen.classes))
        return engine.batch(images, ids, masks, needs=Needs(), chosen=chosen, record=record).plain()

    return replace(batch, plain=plain)


def spacing_of(affine: Tensor, dims: int) -> Tensor:
    """Compute mm between neighbouring places, ``(image, axis)``, of affines ``(image, 4, 4)`` from index (z, y, x)."""
    return affine[:, :3, 3 - dims : 3].norm(dim=1)


def _evaluate(explained: Explained, metric: Metric) -> Values:
    """Run a metric on all maps side by side, and put its values together."""
    assert isinstance(metric, MapMetric)
    _, targets, explainers = explained.defined.shape
    maps = [
        Evaluated(explained, target, explainer, _digest(explained.maps[:, target, explainer]))
        for target in range(targets)
        for explainer in range(explainers)
    ]
    return _joined(
        explained.engine.answer(explained.batch, [metric.evaluate(evaluated) for evaluated in maps]), targets
    )


def _digest(maps: Tensor) -> bytes:
    return blake2b(maps.contiguous().cpu().numpy().tobytes(), digest_size=16).digest()


def _joined(parts: Sequence[Values], targets: int) -> Values:
    """Stack ``(image, ...)`` of each target and explainer to ``(image, target, explainer, ...)``."""

    def join(values: Sequence[Tensor]) -> Tensor:
        stacked = torch.stack(list(values), dim=1)
        return stacked.unflatten(1, (targets, -1))

    first = parts[0]
    return Values(
        join([part.value for part in parts]),
        {name: join([part.companions[name] for part in parts]) for name in first.companions},
        {name: join([part.curves[name] for part in parts]) for name in first.curves},
        first.points,
    )


def _where_defined(score: Values, defined: Tensor) -> Values:
    def clean(values: Tensor) -> Tensor:
        there = defined.cpu().view(*defined.shape, *[1] * (values.ndim - defined.ndim))
        return values.cpu().float().where(there, torch.nan)

    companions = {name: clean(values) for name, values in score.companions.items()}
    curves = {name: clean(values) for name, values in score.curves.items()}
    return Values(clean(score.value), companions, curves, score.points)


def _check(
    engine: Engine,
    metrics: Sequence[Metric],
    images: Tensor,
    maps: Tensor,
    masks: Tensor | None,
    spacing: Tensor | None,
    others: Tensor | None,
) -> None:
    targets = len(engine.target.labels(engine.network.config.classes))
    expected = (len(images), targets, len(engine.explainers), *images.shape[2:])
    if tuple(maps.shape) != expected:
        raise ValueError(f"the maps are {tuple(maps.shape)}, but these images, targets and explainers need {expected}")
    if masks is not None and masks.shape != (len(images), *images.shape[2:]):
        raise ValueError(f"the masks are {tuple(masks.shape)}, but the images are {tuple(images.shape)}")
    if others is not None and others.shape[1:] != maps.shape:
        raise ValueError(
            f"the maps of other networks are {tuple(others.shape)}, but these maps are {tuple(maps.shape)}"
        )
    for metric in metrics:
        engine.network.require(metric.title, metric.requires)
        metric.check(engine.network)
        if metric.needs_masks and masks is None:
            raise ConfigurationError(f"{metric.title}: compares with masks, and the cohort has none")
        if metric.needs_spacing and spacing is None:
            raise ConfigurationError(
                f"{metric.title}: a tolerance in mm needs the spacing of the images, and there is none"
            )
        if metric.needs_others and others is None:
            raise ConfigurationError(f"{metric.title}: compares with maps of other networks, and there are none")
