import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.errors import ConfigurationError
from models.network import Network
from models.outputs import Frame, Output
from models.uncertainty.affine import Affine
from models.uncertainty.base import Uncertainty
from models.uncertainty.members import Member


class TestTimeAugmentation(Uncertainty):
    """Test-time augmentation (Wang et al. 2019, doi:10.1016/j.neucom.2019.01.103).

    A member is a view of the image, turned, shifted and perhaps mirrored by amounts drawn by the image's name; its
    maps are taken back by the inverse. Turning and shifting interpolates, which by itself makes maps vary a little.
    """

    __test__ = False  # the name means no test to pytest

    about = "augmented views"
    name: Literal["test_time_augmentation"] = "test_time_augmentation"
    samples: int = Field(10, ge=2, description="Views")
    degrees: float = Field(5.0, ge=0, le=180, description="Largest angle a view is turned by, in index space")
    shift: float = Field(0.03, ge=0, le=0.5, description="Largest shift along each axis, as a share of the image")
    flip: tuple[Literal["z", "y", "x"], ...] = Field(
        (), strict=False, description="Axes along which half of the views are mirrored"
    )

    def check(self, network: Network) -> None:
        axes = ("z", "y", "x")[3 - network.config.spatial_dims :]
        if unknown := [axis for axis in self.flip if axis not in axes]:
            raise ConfigurationError(f"{self.title}: flip names {unknown}, but the images have the axes {list(axes)}")

    def declare(self, frame: Frame) -> tuple[Output, ...]:
        if self.flip and frame.axes != "zyx":
            raise ConfigurationError(
                f"{self.title}: flip names axes as cohort.axes: zyx orders them, and here they are {frame.axes}: leave "
                "it out"
            )
        return super().declare(frame)

    def members(self, network: Network) -> list[Member]:
        return [Member(network, partial(self._view, sample)) for sample in range(self.samples)]

    def _view(self, sample: int, ids: Sequence[str], like: Tensor) -> Affine:
        amounts = Draws("view", ids).uniform((7,), sample=sample).double()
        axes = Draws("axis of a view", ids).gaussian((3,), sample=sample).double()
        matrices = [self._matrix(*drawn, like) for drawn in zip(amounts, axes, strict=True)]
        return Affine(torch.stack(matrices).to(like))

    def _matrix(self, amounts: Tensor, direction: Tensor, like: Tensor) -> Tensor:
        """Make ``(axis, axis + 1)``, from places of the view to places of the image, both from -1 to 1, x first.

        `amounts` are uniform on [0, 1), ``(7,)``: of the angle, the three flips and the three shifts.
        """
        dims = like.ndim - 2
        angle = math.radians(self.degrees) * (2 * amounts[0] - 1)
        x, y, z = direction / direction.norm() if dims == 3 else torch.tensor([0.0, 0.0, 1.0])
        skew = angle * torch.tensor([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]], dtype=torch.float64)
        turn = torch.linalg.matrix_exp(skew)[:dims, :dims]
        signs = torch.ones(dims, dtype=torch.float64)
        for axis in self.flip:
            if amounts[1 + "xyz".index(axis)] < 0.5:
                signs["xyz".index(axis)] = -1
        shift = 2 * self.shift * (2 * amounts[4 : 4 + dims] - 1)
        size = torch.tensor(like.shape[:1:-1], dtype=torch.float64)
        return torch.cat([turn * size / size[:, None] * signs, shift[:, None]], dim=1)
