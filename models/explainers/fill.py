"""The fill: values that stand in for hidden places of an image."""

from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

Fill = Annotated[
    float | Literal["mean", "blur"],
    Field(description="Values put in: a number as the network takes it, the image's mean, or the image blurred"),
]

_CONV = {2: functional.conv2d, 3: functional.conv3d}


def filled(images: Tensor, fill: float | Literal["mean", "blur"]) -> Tensor:
    """Hide every place of ``(image, channel, *space)``; the mean is that of each channel."""
    if fill == "mean":
        return images.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
    if fill == "blur":
        return _blurred(images)
    return torch.full_like(images, fill)


def only_channel(images: Tensor, hidden: Tensor, channel: int | None) -> Tensor:
    """Hide one channel of ``(image, channel, *space)`` as `hidden` does, and leave the others; None: hide all."""
    if channel is None:
        return hidden
    changed = images.clone()
    changed[:, channel] = hidden[:, channel]
    return changed


def _blurred(images: Tensor) -> Tensor:
    """Blur by a Gaussian of a sixteenth of the longest side, axis by axis, with the edges repeated."""
    dims = images.ndim - 2
    sigma = max(images.shape[2:]) / 16
    reach = int(3 * sigma)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1).to(images) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    for axis in range(dims):
        shape = [1, 1, *(len(kernel) if other == axis else 1 for other in range(dims))]
        pad = [reach if other == axis else 0 for other in reversed(range(dims)) for _ in range(2)]
        padded = functional.pad(images, pad, mode="replicate")
        weight = kernel.view(shape).expand(images.shape[1], 1, *shape[2:])
        images = _CONV[dims](padded, weight, groups=images.shape[1])
    return images
