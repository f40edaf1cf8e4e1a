from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from models.explainers.base import MapExplainer
from models.network import Network
from models.questions import Answer

_CONV = {2: functional.conv2d, 3: functional.conv3d}


class ControlEdges(MapExplainer):
    """Sobel's gradient magnitude of the image's mean channel: a map that knows the image, but no model.

    ``map = sqrt(sum_axis (D_axis S_others x)**2)`` with ``D = [-1, 0, 1]`` and ``S = [1, 2, 1]``; edges repeated.
    """

    name: Literal["control_edges"] = "control_edges"

    def attribute(self, answer: Answer, network: Network) -> Tensor:
        images = answer.inputs.mean(1, keepdim=True)
        dims = images.ndim - 2
        padded = functional.pad(images, [1] * (2 * dims), mode="replicate")
        squares = [_CONV[dims](padded, _sobel(axis, dims).to(images)) ** 2 for axis in range(dims)]
        return torch.stack(squares).sum(0).sqrt()[:, 0]


def _sobel(axis: int, dims: int) -> Tensor:
    kernel = torch.ones(1, 1, *[1] * dims)
    for other in range(dims):
        line = torch.tensor([-1.0, 0.0, 1.0] if other == axis else [1.0, 2.0, 1.0])
        kernel = kernel * line.view(1, 1, *(3 if third == other else 1 for third in range(dims)))
    return kernel
