from itertools import combinations
from math import comb
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.explainers.base import ExplainingInputs
from models.explainers.coalitions import all_coalitions, learn, standard_errors
from models.explainers.sampled import Estimate, SampledSegments
from models.questions import Batch, constant_score

# So many coalitions of a size are listed, to draw none of them twice; of more, two are hardly ever the same.
_LISTED = 2_000


class KernelSHAP(SampledSegments):
    """Kernel SHAP over supervoxels (Lundberg and Lee 2017, arXiv:1705.07874, theorem 2).

    ``map[p]`` is the Shapley value of the segment of p: the minimum of ``sum_z pi(z) (S(x_z) - S(x0) - phi.z)^2`` over
    coalitions `z` of the `n` segments, with ``sum(phi) = S(x) - S(x0)`` and
    ``pi(z) = (n - 1) / (C(n, |z|) |z| (n - |z|))``. Positive where the segment raises the logit. Complete over
    segments. The fields of a record are further players: hidden, they are at their baseline, and segments and fields
    are complete together.

    Where there are no more coalitions than `samples`, all are asked, and the values are exact. Else they are drawn
    without replacement, each with its complement (Covert and Lee 2021, arXiv:2012.01536), as many of a size as by
    ``1 / sqrt(|z| (n - |z|))``, between `pi` and the leverage scores of Musco and Witter (2024, arXiv:2410.01917). What
    the regression leaves of the scores is learnt by a Gaussian process, whose Shapley values are known and added.

    `tolerance` is of ``|e| / |phi|``, with the standard errors `e` of the regression, from what each score differs by
    from that which all others say of it.
    """

    name: Literal["kernel_shap"] = "kernel_shap"
    samples: int = Field(500, ge=2, multiple_of=2, description="Coalitions an image, at most")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        drawn = [self._coalitions(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]
        empty = yield from constant_score(batch, self.baseline)
        ends = torch.stack([empty, batch.scores]).double().cpu().unbind(2)

        def fit(image: int, scores: Tensor) -> Estimate:
            shown, weights = (part[: scores.shape[1]] for part in drawn[image])
            return self._solve(shown, weights, scores, ends[image])

        at_once = [len(shown) if self._has_all(shown.shape[1]) else 2 for shown, _ in drawn]
        return (yield from self.estimate(batch, pieces, [shown for shown, _ in drawn], at_once, fit))

    def _has_all(self, count: int) -> bool:
        return 2**count - 2 <= self.samples

    def _coalitions(self, count: int, image_id: str) -> tuple[Tensor, Tensor]:
        """Draw coalitions ``(question, segment)``, neither the empty nor the full one, and their weights."""
        if self._has_all(count):
            shown = all_coalitions(count)[1:-1]
            kernel = [_kernel(count, size) for size in shown.sum(1).tolist()]
            return shown, torch.tensor(kernel, dtype=torch.float64)
        drawn, weights = torch.tensor(_pairs_by_size(count, self.samples // 2), dtype=torch.float64).unbind(1)
        counts = _whole(drawn, Draws("kernel_shap sizes", [image_id]).uniform((1,))[0])
        pairs = torch.cat([_draw(count, size, number, image_id) for size, number in enumerate(counts.tolist(), 1)])
        weights = weights.repeat_interleave(counts)
        (order,) = Draws("kernel_shap turns", [image_id]).order(len(pairs))
        return torch.stack([pairs, ~pairs], 1)[order].flatten(0, 1), weights[order].repeat_interleave(2)

    def _solve(self, shown: Tensor, weights: Tensor, scores: Tensor, ends: Tensor) -> Estimate:
        """Solve for ``(target, segment)``: equal shares, which are complete, and deviations, which sum to zero."""
        count = shown.shape[1]
        empty, full = ends[..., None]
        share, ratio = (full - empty) / count, shown.double().mean(1)
        root = weights.sqrt()
        # The smallest solution lies in the span of the rows, whose sums are zero.
        solution = torch.linalg.pinv(root[:, None] * (shown.double() - ratio[:, None])) * root
        values = share + (scores - empty - share * count * ratio) @ solution.T
        if self._has_all(count):
            return Estimate(values, torch.zeros_like(values))
        both = torch.cat([shown, torch.zeros(1, count).bool(), torch.ones(1, count).bool()])
        rest = torch.cat([scores - empty, torch.zeros_like(empty), full - empty], 1) - values @ both.double().T
        learnt = learn(both, rest)
        more = learnt.shapley()
        values = values + more - more.mean(1, keepdim=True)
        return Estimate(values, standard_errors(solution, learnt.left_out[:, :-2]))


def _kernel(count: int, size: int) -> float:
    return 1 / (comb(count, size) * size * (count - size))


def _pairs_by_size(count: int, pairs: int) -> list[tuple[float, float]]:
    """Say of each size up to a half how many of `pairs` are drawn, and what one weighs."""
    sizes = range(1, count // 2 + 1)
    # A pair is of two sizes, or twice of a half.
    kinds = [1 / (1 + (2 * size == count)) for size in sizes]
    odds = [kind / (size * (count - size)) ** 0.5 for kind, size in zip(kinds, sizes, strict=True)]
    drawn = []
    for number, (kind, size) in enumerate(zip(kinds, sizes, strict=True)):
        taken = min(pairs * odds[number] / sum(odds[number:]), kind * comb(count, size))
        pairs -= taken
        drawn.append((taken, kind / (size * (count - size) * taken)))
    return drawn


def _whole(numbers: Tensor, chance: Tensor) -> Tensor:
    """Round to whole numbers with the same sum, up or down by `chance` in [0, 1), so that each is kept in the mean."""
    stops = (numbers.cumsum(0) + chance).round(decimals=6).floor().long()
    return stops.diff(prepend=stops.new_zeros(1))


def _draw(count: int, size: int, number: int, image_id: str) -> Tensor:
    """Draw coalitions of `size`, one of each pair, ``(number, player)`` bool."""
    draws = Draws(f"kernel_shap {size}", [image_id])
    if comb(count, size) > _LISTED:
        return draws.order(count, sample=torch.arange(number)) < size
    listed = torch.tensor(list(combinations(range(count), size)))
    # Of the coalitions of a half, those with the first player come first, and are one of each pair.
    pairs = len(listed) // (1 + (2 * size == count))
    members = listed[draws.order(pairs)[0, :number]]
    return torch.zeros(number, count, dtype=torch.bool).scatter(1, members, True)
