"""A network that changes its input."""

import torch
from torch import nn


class CaseInPlace(nn.Module):
    """Normalises in place, or not."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.conv = nn.Conv2d(1, 8, 3, padding=1)
        self.head = nn.Linear(8, 2)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        if self.in_place:
            images -= 100
            images /= 50
        else:
            images = (images - 100) / 50
        return self.head(self.conv(images).relu().mean((2, 3)))
