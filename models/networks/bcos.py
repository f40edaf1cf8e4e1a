"""B-cos classifier: each logit is a linear function of the image whose weights are chosen by the image."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional

_CONV = {2: nn.Conv2d, 3: nn.Conv3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_MEAN = {2: functional.avg_pool2d, 3: functional.avg_pool3d}
_SMALL = 1e-6


class BcosConv(nn.Module):
    """B-cos transform with B = 2 (Böhle et al. 2022, arXiv:2205.10268, eq. 3) as a convolution, of odd `kernel_size`.

    ``y = g |cos(x, w)| w.x / |w|`` of each patch x: a linear function of x whose weights are scaled by how well x is
    aligned with them. The gain g, the root of the patch's length, keeps values from vanishing with depth. The scale is
    a constant for gradients while `is_fixed`.

    Notes
    -----
    Input ``(batch, before, *space)``, output ``(batch, after, *space)``, each side divided by the stride.
    """

    def __init__(self, spatial_dims: int, before: int, after: int, kernel_size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.padding = kernel_size // 2
        self.linear = _CONV[spatial_dims](before, after, kernel_size, stride, self.padding, bias=False)
        self.gain = (before * kernel_size**spatial_dims) ** 0.5
        self.is_fixed = False

    def forward(self, inputs: Tensor) -> Tensor:
        dims, (size, *_) = inputs.ndim - 2, self.linear.kernel_size
        along = self.linear(inputs) / self.linear.weight.flatten(1).norm(dim=1).view(-1, *[1] * dims)
        squares = _MEAN[dims](inputs.square().sum(1, keepdim=True), size, self.linear.stride, self.padding)
        scale = self.gain * along.abs() / (squares * size**dims + _SMALL).sqrt()
        return along * (scale.detach() if self.is_fixed else scale)


class Uncentred(nn.Module):
    """BatchNorm that subtracts nothing and adds nothing, as B-cos networks need (Böhle et al. 2024, arXiv:2306.10898).

    ``y_k = g_k x_k / sqrt(Var[x_k] + eps)``, with the variance over batch and space in training, and with its running
    mean afterwards, so that the norm is a linear function of its input then.
    """

    def __init__(self, features: int, momentum: float = 0.1) -> None:
        super().__init__()
        self.momentum = momentum
        self.weight = nn.Parameter(torch.ones(features))
        self.register_buffer("variance", torch.ones(features))
        self.variance: Tensor

    def forward(self, inputs: Tensor) -> Tensor:
        variance = self.variance
        if self.training:
            variance = inputs.transpose(0, 1).flatten(1).var(1, correction=0)
            self.variance.lerp_(variance.detach(), self.momentum)
        scale = self.weight * (variance + _SMALL).rsqrt()
        return inputs * scale.view(-1, *[1] * (inputs.ndim - 2))


class BcosClassifier(nn.Module):
    """B-cos network (Böhle et al. 2022 and 2024), small and of our own: ``logits = W(e) e``, exactly.

    Each pixel x is encoded as the pair ``e = (max(x, 0), max(-x, 0))``, where Böhle et al. encode colours in [0, 1] as
    x and 1 - x: dark pixels have contributions as bright ones do, and what is of zero, the mean of a standardised
    image, has none. B-cos convolutions, uncentred norms, maxima and a linear layer follow, none of which has a bias.
    Features are pooled by their maximum, where Böhle et al. average: a lesion of 30 pixels in 10,000 vanishes in an
    average.

    Parameters
    ----------
    spatial_dims
        2 or 3.
    in_channels
        Channels of the image, which has zero mean and unit variance or the like.
    num_classes
        Length of the logits.
    features
        Channels of the blocks; each side is halved by the first layer, and between two blocks.

    Notes
    -----
    Input ``(batch, in_channels, *space)``, output logits ``(batch, num_classes)``.
    """

    def __init__(
        self, spatial_dims: int, in_channels: int, num_classes: int, features: Sequence[int] = (12, 24, 48)
    ) -> None:
        super().__init__()
        sizes = pairwise([2 * in_channels, *features])
        self.blocks = nn.ModuleList(_block(spatial_dims, *size, stride=2 - bool(at)) for at, size in enumerate(sizes))
        self.pool = _POOL[spatial_dims](2)
        self.classifier = nn.Linear(features[-1], num_classes, bias=False)
        self.is_fixed = False

    def forward(self, images: Tensor) -> Tensor:
        first, *others = self.blocks
        found = first(self._encode(images))
        for block in others:
            found = block(self.pool(found))
        logits: Tensor = self.classifier(found.flatten(2).amax(-1))
        return logits

    def _encode(self, images: Tensor) -> Tensor:
        encoded = torch.cat([images, -images], dim=1).clamp_min(0)
        if not self.is_fixed:
            return encoded
        ones = 1 + (images - images.detach())
        return encoded.detach() * torch.cat([ones, ones], dim=1)

    @contextmanager
    def explanation_mode(self) -> Iterator[None]:
        """Let the gradient of a logit with respect to the image be what each pixel contributes to it, in the body.

        The weights ``W(e)`` are constants then, and the gradient with respect to a pixel is ``sum_i W_i e_i`` over its
        pair. Values stay as they are.
        """
        parts = [part for part in self.modules() if isinstance(part, BcosConv | BcosClassifier)]
        try:
            for part in parts:
                part.is_fixed = True
            yield
        finally:
            for part in parts:
                part.is_fixed = False


def _block(spatial_dims: int, before: int, after: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        BcosConv(spatial_dims, before, after, stride=stride),
        Uncentred(after),
        BcosConv(spatial_dims, after, after),
        Uncentred(after),
    )
