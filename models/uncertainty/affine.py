"""Views of images, turned, shifted or mirrored, and the way back."""

from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from models.targets import Chosen


@dataclass(frozen=True)
class Affine:
    """A view of some images, and the way back."""

    matrices: Tensor

    @cached_property
    def _inverse(self) -> Tensor:
        turn, shift = self.matrices.double().split((self.matrices.shape[1], 1), dim=2)
        back = torch.linalg.inv(turn)
        return torch.cat([back, -back @ shift], dim=2).to(self.matrices)

    def look(self, values: Tensor, mode: str = "bilinear") -> Tensor:
        return _sampled(values, self.matrices, mode)

    def back(self, values: Tensor) -> Tensor:
        """Take ``(image, any, *space)`` back to the image; beyond the edge of the view its nearest place counts."""
        return _sampled(values, self._inverse, "bilinear")

    def choose(self, chosen: Chosen) -> Chosen:
        if chosen.region is None:
            return chosen
        return replace(chosen, region=self.look(chosen.region.float(), "nearest").to(chosen.region))


def _sampled(values: Tensor, matrices: Tensor, mode: str) -> Tensor:
    grid = functional.affine_grid(matrices.to(values), list(values.shape), align_corners=False)
    return functional.grid_sample(values, grid, mode=mode, padding_mode="border", align_corners=False)
