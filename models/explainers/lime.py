from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from scipy.stats import binom
from torch import Tensor

from models.draws import Draws
from models.explainers.base import ExplainingInputs
from models.explainers.coalitions import all_coalitions, learn, standard_errors
from models.explainers.sampled import Estimate, SampledSegments
from models.questions import Batch


class LIME(SampledSegments):
    """LIME over supervoxels (Ribeiro et al. 2016, arXiv:1602.04938, eq. 2), fitted by ridge regression.

    ``map[p]`` is the coefficient of the segment of p at the minimum of ``E_z[pi(z) (S(x_z) - b - beta.z)^2] +
    alpha |beta|^2``, over random `z` where each segment is shown with probability 0.5, ``pi(z) = exp(-d^2 / width^2)``
    and `d` the cosine distance of `z` to all ones. Positive where the segment raises the logit. The fields of a record
    are chosen like segments; hidden, they are at their baseline.

    Where there are no more choices than `samples`, all are asked, and the map is exact. Else they are drawn in
    proportion to `pi`, each with its complement. What the regression leaves of the scores is learnt by a Gaussian
    process, whose part in the coefficients is known and added.

    `tolerance` is of ``|e| / |beta|``, with the standard errors `e` of the regression, from what each score differs by
    from that which all others say of it. Where segments interact strongly, the true error may be twice as large.
    """

    name: Literal["lime"] = "lime"
    samples: int = Field(1000, ge=2, multiple_of=2, description="Choices of segments an image, at most")
    width: float = Field(0.25, gt=0, description="Width of the kernel, in cosine distance")
    alpha: float = Field(0.001, gt=0, description="Ridge penalty of the coefficients, beside a mean of squares")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        drawn = [self._coalitions(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]

        def fit(image: int, scores: Tensor) -> Estimate:
            shown, weights = (part[: scores.shape[1]] for part in drawn[image])
            return self._fit(shown, weights, scores)

        at_once = [len(shown) if self._has_all(shown.shape[1]) else 2 for shown, _ in drawn]
        return (yield from self.estimate(batch, pieces, [shown for shown, _ in drawn], at_once, fit))

    def _has_all(self, count: int) -> bool:
        return 2**count <= self.samples

    def _kernel(self, count: int) -> NDArray[np.float64]:
        """Compute the weight of choices of 0 to `count` segments."""
        distance = 1 - np.sqrt(np.arange(count + 1) / count)
        kernel: NDArray[np.float64] = np.exp(-((distance / self.width) ** 2))
        return kernel

    def _coalitions(self, count: int, image_id: str) -> tuple[Tensor, Tensor]:
        """Draw ``(question, segment)``, and weights ``(question,)``, by which means are those over all choices."""
        kernel = self._kernel(count)
        if self._has_all(count):
            shown = all_coalitions(count)
            return shown, torch.as_tensor(kernel)[shown.sum(1)]
        wanted = kernel * binom.pmf(np.arange(count + 1), count, 0.5)
        odds = (wanted + wanted[::-1]) / (2 * wanted.sum())
        pairs = torch.arange(self.samples // 2)
        at = (pairs + Draws("lime sizes", [image_id]).uniform((1,))[0]) / len(pairs)
        sizes = torch.searchsorted(torch.as_tensor(odds.cumsum()), at.double()).clamp_max(count)
        (turns,) = Draws("lime turns", [image_id]).order(len(pairs))
        shown = Draws("lime", [image_id]).order(count, sample=pairs) < sizes[turns, None]
        both = torch.stack([shown, ~shown], 1).flatten(0, 1)
        return both, torch.as_tensor(wanted / odds)[both.sum(1)]

    def _fit(self, shown: Tensor, weights: Tensor, scores: Tensor) -> Estimate:
        count, weights = shown.shape[1], weights / len(weights)
        penalty = self.alpha * torch.eye(count, dtype=torch.float64)
        # The intercept is not penalised: centred features leave it out, whatever the scores' mean.
        features = shown.double() - weights @ shown.double() / weights.sum()
        weighted = features.T * weights
        solution = torch.linalg.solve(weighted @ features + penalty, weighted)
        values = scores @ solution.T
        if self._has_all(count):
            return Estimate(values, torch.zeros_like(values))
        mean = (scores @ weights / weights.sum())[:, None]
        learnt = learn(shown, scores - mean - values @ features.T)
        kernel = self._kernel(count)
        whole, of_player = learnt.moments(kernel)
        mass, once, twice = _moments(kernel)
        gram = (twice - once**2 / mass).expand(count, count).clone()
        gram.diagonal().fill_(once - once**2 / mass)
        right = values @ gram + of_player - whole[:, None] * once / mass
        return Estimate(torch.linalg.solve(gram + penalty, right.T).T, standard_errors(solution, learnt.left_out))


def _moments(kernel: NDArray[np.float64]) -> Tensor:
    """Compute the means over all choices of the kernel, and of it where one segment, or two, are shown: ``(3,)``."""
    count = len(kernel) - 1
    odds, sizes = kernel * binom.pmf(np.arange(count + 1), count, 0.5), np.arange(count + 1)
    pairs = sizes * (sizes - 1) / max(count * (count - 1), 1)
    return torch.tensor([odds.sum(), odds @ sizes / count, odds @ pairs])
