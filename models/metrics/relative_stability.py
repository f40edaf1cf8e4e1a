"""The common part of relative stabilities: how far a map moves, by how far something else moves with the image."""

from math import inf

import torch
from pydantic import Field
from torch import Tensor

from models.metrics.base import Explained, StackMetric, Values
from models.metrics.copies import Changes, changes
from models.network import Network

_LEAST = 1e-6
"""The least distance that a map's is divided by."""


class RelativeStability(StackMetric):
    """The largest relative change of a map over copies of the image, by the change of something else."""

    family = "robustness"
    better = "lower"
    only_named = True
    range = (0.0, inf)

    radius: float = Field(0.02, gt=0, description="Largest change of a pixel, as a share of the image's range")
    samples: int = Field(10, ge=1, description="Changed copies an image")

    def compare(self, explained: Explained) -> Values:
        found = changes(explained, self.radius, self.samples, self.layer_of(explained.engine.network))
        ratios = found.relative_maps / self.change(found).clamp_min(_LEAST)[..., None, None]
        counts = found.stays[..., None] & explained.maps.flatten(3).any(-1)
        return Values(ratios.where(counts, -inf).amax(0).where(counts.any(0), torch.nan))

    def layer_of(self, network: Network) -> str | None:
        """Name the layer whose output is compared; None if no layer's is."""
        return None

    def change(self, found: Changes) -> Tensor:
        """Take the distances that those of the maps are divided by, ``(sample, image)``."""
        raise NotImplementedError
