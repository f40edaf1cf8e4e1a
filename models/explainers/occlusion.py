from itertools import product
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.explainers.base import Answer, Case, Explainer, Explaining, Questions, per_question
from models.explainers.incremental import AskBoxes

Sides = Annotated[tuple[int, ...], Field(strict=False)]

_CONV = {2: functional.conv2d, 3: functional.conv3d}


class Occlusion(Explainer):
    """Occlusion (Zeiler and Fergus 2013, arXiv:1311.2901, section 4.2).

    ``map[p] = mean over the windows W that cover p of S(x) - S(x without W)``. Positive where hiding the place lowers
    the logit. The last window of an axis ends at the image's edge, cut off where it would stand over.
    """

    name: Literal["occlusion"] = "occlusion"
    window: int | Sides = Field(16, description="Side of the window in pixels, or one an axis")
    stride: int | Sides = Field(8, description="Step of the window in pixels, or one an axis")
    fill: float | Literal["mean", "blur"] = Field(
        0.0, description="What is put in: a value of what the network takes, the image's mean, or the image blurred"
    )

    def explain(self, case: Case) -> Explaining:
        corners, sides = self._corners(tuple(case.images.shape[2:]))
        windows = _windows(corners, sides, case.images)
        filled = self._filled(case.images)
        total, cover = case.zeros(), windows.sum(0)
        scores = case.scores

        def make(image: Tensor, step: Tensor) -> Tensor:
            return torch.where(windows[step][:, None], filled[image], case.images[image])

        def fold(answer: Answer) -> None:
            drop = scores[answer.target, answer.image] - answer.score
            shown = windows[answer.step]
            total[answer.target].index_add_(0, answer.image, per_question(drop, shown) * shown)

        ask = AskBoxes(case.images, corners, sides)
        yield Questions(len(windows), make, fold, ask=ask, key=("occlusion", self.window, self.stride, self.fill))
        return total / cover.clamp_min(1)

    def _corners(self, shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
        """First place of each window ``(window, axis)``, and the sides of all."""
        sides, strides = (
            (value,) * len(shape) if isinstance(value, int) else value for value in (self.window, self.stride)
        )
        if len(sides) != len(shape) or len(strides) != len(shape):
            raise ValueError(f"occlusion: window {sides} and stride {strides} must fit an image of {shape}")
        starts = (
            range(0, max(size - side, 0) + stride, stride)
            for size, side, stride in zip(shape, sides, strides, strict=True)
        )
        return torch.tensor(list(product(*starts))), torch.tensor(sides)

    def _filled(self, images: Tensor) -> Tensor:
        if self.fill == "mean":
            return images.mean(tuple(range(2, images.ndim)), keepdim=True).expand_as(images)
        if self.fill == "blur":
            return _blurred(images)
        return torch.full_like(images, self.fill)


def _windows(corners: Tensor, sides: Tensor, images: Tensor) -> Tensor:
    """``(window, *space)`` bool."""
    windows = torch.zeros(len(corners), *images.shape[2:], dtype=torch.bool, device=images.device)
    for window, corner in zip(windows, corners, strict=True):
        window[tuple(map(slice, corner, corner + sides))] = True
    return windows


def _blurred(images: Tensor) -> Tensor:
    """Gaussian of a sixteenth of the longest side, axis by axis, edges repeated."""
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
