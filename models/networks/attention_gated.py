"""Attention-gated classifier in two or three dimensions."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_NORM = {2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class AttentionGate(nn.Module):
    """Additive attention gate (Oktay et al. 2018, arXiv:1804.03999, eq. 1 and 2).

    ``alpha = sigmoid(psi(relu(theta(x) + phi(g))))`` and the gated features are ``alpha * x``, with ``g``
    interpolated to the grid of ``x``. The output of ``coefficients`` is ``alpha``: ``(batch, 1, *space)``
    in [0, 1].
    """

    def __init__(self, spatial_dims: int, features: int, gating_features: int, hidden: int) -> None:
        super().__init__()
        conv = _CONV[spatial_dims]
        self.mode = _INTERPOLATION[spatial_dims]
        self.theta = conv(features, hidden, kernel_size=1, bias=False)
        self.phi = conv(gating_features, hidden, kernel_size=1)
        self.coefficients = nn.Sequential(nn.ReLU(), conv(hidden, 1, kernel_size=1), nn.Sigmoid())

    def forward(self, features: Tensor, gating: Tensor) -> Tensor:
        gating = functional.interpolate(self.phi(gating), size=features.shape[2:], mode=self.mode, align_corners=False)
        alpha: Tensor = self.coefficients(self.theta(features) + gating)
        return alpha * features


class AttentionGatedClassifier(nn.Module):
    """Convolutional classifier whose features on two scales pass attention gates (Schlemper et al. 2019).

    Four blocks of two convolutions; the deepest features gate those of the second and the third block. Both gated
    maps and the deepest features are pooled, concatenated and classified linearly (Schlemper et al.,
    doi:10.1016/j.media.2019.01.012, section 3.2, aggregation by concatenation). They are pooled by their maximum,
    where Schlemper et al. average: a lesion of 30 pixels in 10,000 vanishes in an average.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels
        Channels of the image.
    num_classes
        Length of the logits.
    features
        Channels of the four blocks.

    Notes
    -----
    Input ``(batch, in_channels, *space)``, output logits ``(batch, num_classes)``. Each side of ``space`` must
    be at least 8.
    """

    attention_layers = ("gates.0.coefficients", "gates.1.coefficients")

    def __init__(
        self,
        spatial_dims: int,
        in_channels: int,
        num_classes: int,
        features: Sequence[int] = (12, 24, 48, 64),
    ) -> None:
        super().__init__()
        channels = [in_channels, *features]
        self.blocks = nn.ModuleList(conv_block(spatial_dims, before, after) for before, after in pairwise(channels))
        self.pool = _POOL[spatial_dims](2)
        _, second, third, deepest = features
        self.gates = nn.ModuleList(
            AttentionGate(spatial_dims, scale, deepest, hidden=scale) for scale in (second, third)
        )
        self.classifier = nn.Linear(second + third + deepest, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        first, second, third, deepest = self.blocks
        fine = second(self.pool(first(images)))
        coarse = third(self.pool(fine))
        gating = deepest(self.pool(coarse))
        scales = [self.gates[0](fine, gating), self.gates[1](coarse, gating), gating]
        pooled = [scale.flatten(2).amax(-1) for scale in scales]
        logits: Tensor = self.classifier(torch.cat(pooled, dim=1))
        return logits


def conv_block(spatial_dims: int, before: int, after: int) -> nn.Sequential:
    conv, norm = _CONV[spatial_dims], _NORM[spatial_dims]
    return nn.Sequential(
        conv(before, after, kernel_size=3, padding=1, bias=False),
        norm(after),
        nn.ReLU(),
        conv(after, after, kernel_size=3, padding=1, bias=False),
        norm(after),
        nn.ReLU(),
    )
