from collections.abc import Generator
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from models.draws import Draws
from models.explainers.base import Attribution, ExplainingInputs, MapExplainer
from models.explainers.rounds import Tolerance, in_rounds
from models.questions import Answer, Batch, Questions, per_question


class RISE(MapExplainer):
    """RISE (Petsiuk et al. 2018, arXiv:1806.07421, eq. 4), by the covariance of probability and mask.

    ``map = E[P m] / p = E[P] + Cov(P, m) / p``, since ``E[m] = p`` at each place: `P` is the target's probability of
    ``x * m``, and `m` a random grid of zeros and ones, ones with probability `p`, interpolated and shifted at random.
    Sample mean and sample covariance of `N` masks have the same expectation as eq. 6 of the source, and leave out the
    error of its mean mask. In [0, 1] but for the error that is left.

    `tolerance` is of the standard error that the draws show: ``sqrt(sum_q Var(v)[q] / N) / |map|``, with
    ``v = (P - mean(P)) m / p`` at places `q`.
    """

    name: Literal["rise"] = "rise"
    samples: int = Field(700, ge=2, description="Masks an image (N); with a tolerance, the most")
    cells: int = Field(7, ge=1, description="Cells of the grid along each axis")
    keep: float = Field(0.5, gt=0, lt=1, description="Probability that a cell is kept (p)")
    tolerance: Tolerance = None

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        sums = _Sums.zeros(batch, self.samples)
        ask, error = partial(self._ask, batch, sums), partial(sums.relative_error, self.keep)
        inexact = yield from in_rounds(batch, self.samples, self.tolerance, ask, error)
        mean, covariance = sums.moments()
        return Attribution(mean + covariance / self.keep, inexact=inexact)

    def _ask(self, batch: Batch, sums: "_Sums", among: Tensor, draws: slice) -> Generator[Questions, None, None]:
        shape = tuple(batch.images.shape[2:])
        cells, shifts = (Draws(f"rise {drawn}", batch.ids, batch.images.device) for drawn in ("cells", "shifts"))
        cell = [-(-size // self.cells) for size in shape]

        def masks(image: Tensor, step: Tensor) -> Tensor:
            sample = draws.start + step
            grids = cells.uniform([self.cells + 1] * len(shape), image, sample) < self.keep
            return self._masks(grids, cell, shifts.below(torch.tensor(cell), image, sample), shape).to(batch.images)

        def make(image: Tensor, step: Tensor) -> Tensor:
            return batch.images[image] * masks(image, step)[:, None]

        def fold(answer: Answer) -> None:
            sums.add(answer, draws.start + answer.step, masks(answer.image, answer.step))

        yield Questions(draws.stop - draws.start, make, fold, among=among)
        sums.counts[among] = draws.stop

    def _masks(self, grids: Tensor, cell: list[int], shifts: Tensor, shape: tuple[int, ...]) -> Tensor:
        """Interpolate grids ``(question, *cells)``, and cut ``(question, *shape)`` from the shifts on."""
        size = [(self.cells + 1) * side for side in cell]
        mode = "bilinear" if len(shape) == 2 else "trilinear"
        masks = functional.interpolate(grids[:, None].float(), size=size, mode=mode)[:, 0]
        for axis, side in enumerate(shape):
            places = shifts[:, axis, None] + torch.arange(side, device=shifts.device)
            own = places.view(-1, *[side if axis == other else 1 for other in range(len(shape))])
            masks = masks.gather(axis + 1, own.expand(*masks.shape[: axis + 1], side, *masks.shape[axis + 2 :]))
        return masks


@dataclass(frozen=True, eq=False)
class _Sums:
    """Sums over the masks that were asked about.

    Attributes
    ----------
    counts
        ``(image,)``, the number of masks.
    masks, products
        ``(image, *space)`` and ``(target, image, *space)``, the sums of masks, and of masks by their probability.
    probabilities, squares
        ``(target, image, sample)`` and ``(image, sample)``, the probability and the sum of squares of each mask.
    """

    counts: Tensor
    masks: Tensor
    products: Tensor
    probabilities: Tensor
    squares: Tensor

    @classmethod
    def zeros(cls, batch: Batch, samples: int) -> "_Sums":
        products = batch.zeros()
        probabilities = products.new_zeros(*products.shape[:2], samples, dtype=torch.float64)
        counts = torch.zeros(len(batch.images), dtype=torch.long, device=products.device)
        masks, squares = torch.zeros_like(products[0]), torch.zeros_like(probabilities[0])
        return cls(counts, masks, products, probabilities, squares)

    def add(self, answer: Answer, sample: Tensor, masks: Tensor) -> None:
        self.products[answer.target].index_add_(0, answer.image, per_question(answer.probability, masks) * masks)
        self.probabilities[answer.target, answer.image, sample] = answer.probability.double()
        if answer.target == 0:
            self.masks.index_add_(0, answer.image, masks)
            self.squares[answer.image, sample] = masks.flatten(1).square().sum(1, dtype=torch.float64)

    def moments(self) -> tuple[Tensor, Tensor]:
        """Compute the mean probability, and its covariance with each place of a mask: ``(target, image, *space)``."""
        mean = (self.probabilities.sum(-1) / self.counts).to(self.products)
        mean = mean.view(*mean.shape, *[1] * (self.products.ndim - 2))
        less = (self.counts - 1).view(-1, *[1] * (self.products.ndim - 2))
        return mean, (self.products - mean * self.masks) / less

    def relative_error(self, keep: float) -> Tensor:
        """Estimate the standard error of the map as a share of its norm, ``(target, image)``."""
        mean, covariance = self.moments()
        flat = (covariance / keep).double().flatten(2)
        deviations = self.probabilities - mean.double().flatten(2)
        spread = (deviations.square() * self.squares).sum(-1) / keep**2 - self.counts * flat.square().sum(-1)
        variance = spread.clamp_min(0) / (self.counts * (self.counts - 1))
        return variance.sqrt() / (mean + covariance / keep).double().flatten(2).norm(dim=-1)
