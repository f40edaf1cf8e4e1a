"""Supervoxels, and the common part of the explainers that show some of them to the network and hide the others."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from pydantic import Field
from skimage.segmentation import slic
from torch import Tensor

from models.explainers.base import MapExplainer
from models.explainers.fill import filled, only_channel
from models.questions import Answer, Batch, Questions


@dataclass(frozen=True)
class Supervoxels:
    """Images, each cut into segments of its own.

    Attributes
    ----------
    labels
        ``(image, *space)``, the number of the segment at each place.
    counts
        Number of segments of each image.
    """

    labels: Tensor
    counts: tuple[int, ...]

    def paint(self, values: Sequence[Tensor]) -> Tensor:
        """Lay the values ``(target, segment)`` of each image over its places: ``(target, image, *space)``."""
        pairs = zip(values, self.labels, strict=True)
        return torch.stack([value.to(labels.device)[:, labels] for value, labels in pairs], dim=1)


def cut(images: Tensor, segments: int, compactness: float) -> Supervoxels:
    """Cut ``(image, channel, *space)`` by SLIC (Achanta et al. 2012, doi:10.1109/TPAMI.2012.120).

    SLIC takes each image's range to [0, 1] first. It finds about as many segments as it is asked for: fewer where the
    image has no structure, more where a cubic grid of that many does not fit it.
    """
    labels = []
    for image in images.float().cpu().numpy():
        found = slic(image, segments, compactness, channel_axis=0, convert2lab=False, start_label=0)
        labels.append(np.unique(found, return_inverse=True)[1].reshape(found.shape))
    stacked = torch.as_tensor(np.stack(labels), device=images.device)
    return Supervoxels(stacked, tuple(int(part.max()) + 1 for part in labels))


class SegmentExplainer(MapExplainer):
    """An explainer that hides segments of the image behind a baseline."""

    segments: int = Field(50, ge=1, description="About how many supervoxels an image is cut into")
    # Less than 0.3 leaves noisy images in a few ragged segments, or in one.
    compactness: float = Field(0.3, gt=0, description="Weight of nearness against likeness; large: a grid")
    baseline: float = Field(0.0, description="Value of hidden pixels, in what the network takes")

    def cut(self, batch: Batch) -> Supervoxels:
        return cut(batch.images, self.segments, self.compactness)

    def answers(
        self, batch: Batch, pieces: Supervoxels, shown: Sequence[Tensor], channel: int | None = None
    ) -> Generator[Questions, None, list[Tensor]]:
        """Ask about ``(question, segment)`` of each image, true where shown; return its scores ``(target, question)``.

        The scores are in float64 and on the CPU. An image with fewer questions than another is asked about as it is
        for the rest, and those answers are cut off. Where `channel` is given, segments are hidden in it alone.
        """
        most = max(map(len, shown))
        table = torch.ones(len(shown), most, max(pieces.counts), dtype=torch.bool)
        for rows, own in zip(table, shown, strict=True):
            rows[: own.shape[0], : own.shape[1]] = own
        table = table.to(batch.images.device)
        hidden = only_channel(batch.images, filled(batch.images, self.baseline), channel)
        scores = batch.images.new_zeros(len(batch.answers), len(shown), most, dtype=torch.float64)

        def make(image: Tensor, step: Tensor) -> Tensor:
            labels = pieces.labels[image]
            visible = table[image, step].gather(1, labels.flatten(1)).view_as(labels)
            return batch.images[image].where(visible[:, None], hidden[image])

        def fold(answer: Answer) -> None:
            scores[answer.target, answer.image, answer.step] = answer.score.double()

        yield Questions(most, make, fold)
        return [row[:, : len(own)] for row, own in zip(scores.cpu().unbind(1), shown, strict=True)]
