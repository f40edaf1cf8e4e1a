from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.explainers.base import Explaining, MapExplainer
from models.explainers.noise import draw
from models.questions import Answer, Batch, Questions, per_question


class RISE(MapExplainer):
    """RISE (Petsiuk et al. 2018, arXiv:1806.07421, eq. 6).

    ``map = 1 / (N p) sum_s P(x * m_s) m_s`` with `P` the target's probability and ``m_s`` random grids of zeros and
    ones, ones with probability `p`, interpolated and shifted at random. In [0, 1 / p].
    """

    name: Literal["rise"] = "rise"
    samples: int = Field(1000, ge=1, description="Masks an image (N)")
    cells: int = Field(7, ge=1, description="Cells of the grid along each axis")
    keep: float = Field(0.5, gt=0, lt=1, description="Probability that a cell is kept (p)")

    def explain(self, batch: Batch) -> Explaining:
        shape = tuple(batch.images.shape[2:])
        total = batch.zeros()

        def masks(image: Tensor, step: Tensor) -> Tensor:
            return draw(batch, image, step, lambda seeded: self._mask(shape, seeded), f"rise {self.cells} {self.keep}")

        def make(image: Tensor, step: Tensor) -> Tensor:
            return batch.images[image] * masks(image, step)[:, None]

        def fold(answer: Answer) -> None:
            shown = masks(answer.image, answer.step)
            total[answer.target].index_add_(0, answer.image, per_question(answer.probability, shown) * shown)

        yield Questions(self.samples, make, fold)
        return total / (self.samples * self.keep)

    def _mask(self, shape: tuple[int, ...], seeded: torch.Generator) -> Tensor:
        cell = [-(-size // self.cells) for size in shape]
        grid = (torch.rand([1, 1, *[self.cells + 1] * len(shape)], generator=seeded) < self.keep).float()
        size = [(self.cells + 1) * side for side in cell]
        mask = functional.interpolate(grid, size=size, mode="bilinear" if len(shape) == 2 else "trilinear")[0, 0]
        shifts = [int(torch.randint(side, (), generator=seeded)) for side in cell]
        return mask[tuple(slice(shift, shift + side) for shift, side in zip(shifts, shape, strict=True))]
