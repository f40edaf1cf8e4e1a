"""Copies of images that are changed a little, and how far the network's answers and the maps move with them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from models.draws import Draws
from models.engine import Engine
from models.explainers.noise import range_of
from models.metrics.base import Explained
from models.questions import Batch, Needs

_ROUNDING = 1e-6


def asked_about(
    engine: Engine, batch: Batch, samples: int, noise: Callable[[Tensor, Tensor], Tensor], needs: Needs | None = None
) -> Iterator[Batch]:
    """Ask about `samples` noisy copies of each image, for the target that the image has.

    Parameters
    ----------
    noise
        A function from image indices and numbers of samples, both ``(copy,)``, to what is added.
    needs
        What is used of the answers; None: what the explainers need.

    Yields
    ------
    Batch
        Copies of all images, sample by sample: as many samples as fill a batch, where the images do not.
    """
    rows, device = len(batch.images), batch.images.device
    together = max(engine.images_at_once // rows, 1)
    for first in range(0, samples, together):
        count = min(together, samples - first)
        image = torch.arange(rows, device=device).repeat(count)
        sample = torch.arange(first, first + count, device=device).repeat_interleave(rows)
        copies = batch.images[image] + noise(image, sample)
        chosen, record = batch.chosen.rows(image), batch.record[image]
        yield engine.batch(copies, batch.ids * count, needs=needs, chosen=chosen, record=record)


@dataclass(frozen=True)
class Changes:
    """Distances of everything from an image to its copies; all of them are Euclidean.

    Attributes
    ----------
    maps, relative_maps
        ``(sample, image, target, explainer)``, of the maps; place by place as a share of what was there.
    images, layer
        ``(sample, image)``, of the image and of a layer's output, each as a share of what was there; 0 without a layer.
    logits
        ``(sample, image)``.
    stays
        ``(sample, image, target)`` bool, whether the network decides for the target as it does about the image.
    """

    maps: Tensor
    relative_maps: Tensor
    images: Tensor
    layer: Tensor
    logits: Tensor
    stays: Tensor


def changes(explained: Explained, radius: float, samples: int, layer: str | None = None) -> Changes:
    """Explain copies anew whose places are moved by up to `radius`, a share of the image's range, evenly distributed.

    It is done once for all metrics that ask for the same. An explainer's own noise is the same for every copy.
    """
    key = ("changes", radius, samples, layer)
    return explained.once(key, lambda: _changes(explained, radius, samples, layer))


def relative_distance(before: Tensor, after: Tensor) -> Tensor:
    """Compute ``||(before - after) / before||`` over the last axis.

    Places where `before` is 0, or less than a millionth of its largest magnitude, do not count: rounding decides there.
    """
    size = before.abs()
    counts = size > _ROUNDING * size.amax(-1, keepdim=True)
    return ((before - after) / before).where(counts, 0.0).norm(dim=-1)


def _changes(explained: Explained, radius: float, samples: int, layer: str | None) -> Changes:
    engine, batch = explained.engine, explained.batch
    rows, *shape = batch.images.shape
    reach = radius * range_of(batch.images)
    draws = Draws("uniform", batch.ids, batch.images.device)
    needs = Needs(activations=frozenset({layer} if layer else ()))

    def noise(image: Tensor, sample: Tensor) -> Tensor:
        return reach[image] * (2 * draws.uniform(shape, image, sample) - 1)

    plain = batch
    if layer:
        plain = engine.batch(batch.images, batch.ids, needs=needs, chosen=batch.chosen, record=batch.record)
    before = _answers(plain, layer)
    found = []
    for copies in asked_about(engine, batch, samples, noise, engine.needs | needs):
        anew = engine.maps(copies).to(explained.maps).unflatten(0, (-1, rows))
        images, output, logits, decided = (part.unflatten(0, (-1, rows)) for part in _answers(copies, layer))
        found.append(
            (
                *_distances(explained.maps, anew),
                relative_distance(before[0], images),
                relative_distance(before[1], output),
                (logits - before[2]).norm(dim=-1),
                decided == before[3],
            )
        )
    return Changes(*(torch.cat(parts).to(explained.maps.device) for parts in zip(*found, strict=True)))


def _distances(maps: Tensor, anew: Tensor) -> tuple[Tensor, Tensor]:
    """Measure how far maps move; explainers come one by one, so that the memory is that of a few maps an image."""
    apart, relative = [], []
    for before, after in zip(maps.flatten(3).unbind(2), anew.flatten(4).unbind(3), strict=True):
        apart.append((after.double() - before.double()).norm(dim=-1))
        relative.append(relative_distance(before.double(), after.double()))
    return torch.stack(apart, dim=-1), torch.stack(relative, dim=-1)


def _answers(batch: Batch, layer: str | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Take ``(image, ...)``: images, the layer's output, logits, and decisions for the targets."""
    images = batch.images.flatten(1).double()
    output = batch.answers[0].activations[layer].flatten(1).double() if layer else torch.zeros_like(images[:, :1])
    decided = torch.stack([answer.decided for answer in batch.answers], dim=1)
    return images, output, batch.logits.flatten(1).double(), decided
