"""Supervoxels, and the common part of the explainers that show some of them to the network and hide the others."""

from collections.abc import Generator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from pydantic import Field
from scipy.ndimage import find_objects
from skimage.segmentation import slic
from torch import Tensor

from models.explainers.base import Attribution, MapExplainer
from models.explainers.fill import filled, only_channel
from models.questions import Answer, Ask, Batch, Questions, plainly


@dataclass(frozen=True)
class Supervoxels:
    """Images, each cut into segments of its own.

    Attributes
    ----------
    labels
        ``(image, *space)``, the number of the segment at each place.
    counts
        Number of segments of each image.
    fields
        Number of fields of the record beside an image.
    """

    labels: Tensor
    counts: tuple[int, ...]
    fields: int = 0

    @property
    def players(self) -> tuple[int, ...]:
        """Number of segments and fields of each image; the fields come last."""
        return tuple(count + self.fields for count in self.counts)

    def paint(self, values: Sequence[Tensor]) -> Tensor:
        """Lay the values ``(target, player)`` of each image over its places: ``(target, image, *space)``."""
        pairs = zip(values, self.labels, strict=True)
        return torch.stack([value.to(labels.device)[:, labels] for value, labels in pairs], dim=1)

    def boxes(self) -> tuple[Tensor, Tensor]:
        """Bound each segment: first places and sides, both ``(image, segment, axis)``.

        An image with fewer segments than another has single places in the stead of the rest.
        """
        axes = self.labels.ndim - 1
        corners = torch.zeros(len(self.counts), max(self.counts), axes, dtype=torch.long)
        sides = torch.ones_like(corners)
        for image, labels in enumerate(self.labels.cpu().numpy()):
            for segment, places in enumerate(find_objects(labels + 1)):
                corners[image, segment] = torch.tensor([along.start for along in places])
                sides[image, segment] = torch.tensor([along.stop - along.start for along in places])
        return corners.to(self.labels.device), sides.to(self.labels.device)

    def attribution(self, values: Sequence[Tensor]) -> Attribution:
        """Hand out the values ``(target, player)`` of each image to its places, and to the fields of its record."""
        pairs = list(zip(values, self.counts, strict=True))
        record = torch.stack([own[:, count:] for own, count in pairs], dim=1)
        of_image = torch.stack([own[:, :count].abs().sum(1) for own, count in pairs], dim=1)
        return Attribution(self.paint(values), record=record, of_image=of_image)


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
        return replace(cut(batch.images, self.segments, self.compactness), fields=batch.record.shape[1])

    def answers(
        self,
        batch: Batch,
        pieces: Supervoxels,
        shown: Sequence[Tensor],
        channel: int | None = None,
        among: Tensor | None = None,
        ask: Ask = plainly,
    ) -> Generator[Questions, None, list[Tensor]]:
        """Ask about ``(question, player)`` of each image, true where shown; return its scores ``(target, question)``.

        The scores are in float64 and on the CPU. An image with fewer questions than another is asked about as it is
        for the rest, and those answers are cut off. Players that `shown` lacks are shown. Where `channel` is given,
        segments are hidden in it alone. `among` numbers the images that `shown` is about; None: all.
        `ask` is the way in which the network is asked.
        """
        most, images = max(map(len, shown)), len(batch.images)
        numbers = range(images) if among is None else among.tolist()
        table = torch.ones(images, most, max(pieces.players), dtype=torch.bool)
        for number, own in zip(numbers, shown, strict=True):
            table[number, : own.shape[0], : own.shape[1]] = own
        table = table.to(batch.images.device)
        hidden = only_channel(batch.images, filled(batch.images, self.baseline), channel)
        fields = (torch.tensor(pieces.counts)[:, None] + torch.arange(pieces.fields)).to(table.device)
        scores = batch.images.new_zeros(len(batch.answers), images, most, dtype=torch.float64)

        def make(image: Tensor, step: Tensor) -> Tensor:
            labels = pieces.labels[image]
            visible = table[image, step].gather(1, labels.flatten(1)).view_as(labels)
            return batch.images[image].where(visible[:, None], hidden[image])

        def make_record(image: Tensor, step: Tensor) -> Tensor:
            visible = table[image, step].gather(1, fields[image])
            return batch.record[image].where(visible, batch.reference[image])

        def fold(answer: Answer) -> None:
            scores[answer.target, answer.image, answer.step] = answer.score.double()

        yield Questions(most, make, fold, ask=ask, among=among, make_record=make_record)
        scores = scores.cpu()
        return [scores[:, number, : len(own)] for number, own in zip(numbers, shown, strict=True)]
