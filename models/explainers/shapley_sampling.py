from math import inf
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.draws import Draws
from models.explainers.base import ExplainingInputs
from models.explainers.sampled import Estimate, SampledSegments
from models.questions import Batch, constant_score


class ShapleySampling(SampledSegments):
    """Shapley values of supervoxels by sampled permutations (Castro et al. 2009, doi:10.1016/j.cor.2008.04.004;
    Strumbelj and Kononenko 2014, doi:10.1007/s10115-013-0679-x).

    ``map[p] = mean over permutations of S(x_z with the segment of p) - S(x_z)``, with `z` the segments that come before
    it. Each permutation is asked with its reverse (Mitchell et al. 2022, arXiv:2104.12199), which is exact where no
    more than two segments interact. Positive where the segment raises the logit. Complete over segments, however few
    permutations: they sum to ``S(x) - S(x0)``. It asks one question a permutation and segment. The fields of a record
    are further players: hidden, they are at their baseline. `kernel_shap` comes to the same values by fewer questions.

    `tolerance` is of ``|e| / |phi|``, with `phi` the values and `e` their standard errors over pairs of permutations.
    """

    name: Literal["shapley_sampling"] = "shapley_sampling"
    permutations: int = Field(10, ge=2, multiple_of=2, description="Orders in which segments are shown, at most")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        ranks = [self._ranks(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]
        shown = [(rank[:, None] < torch.arange(1, rank.shape[1])[:, None]).flatten(0, 1) for rank in ranks]
        empty = yield from constant_score(batch, self.baseline)
        ends = torch.stack([empty, batch.scores]).double().cpu().unbind(2)
        at_once = [2 * (count - 1) for count in pieces.players]
        return (
            yield from self.estimate(
                batch, pieces, shown, at_once, lambda image, scores: _mean_gain(ranks[image], scores, ends[image])
            )
        )

    def _ranks(self, count: int, image_id: str) -> Tensor:
        """Draw the place of each segment in each order: ``(permutation, segment)``."""
        ranks = Draws("shapley_sampling", [image_id]).order(count, sample=torch.arange(self.permutations // 2))
        return torch.stack([ranks, count - 1 - ranks], dim=1).flatten(0, 1)


def _mean_gain(ranks: Tensor, scores: Tensor, ends: Tensor) -> Estimate:
    """Average the gains over the permutations that were asked about."""
    count = ranks.shape[1]
    if count == 1:
        return Estimate(ends[1:].T - ends[:1].T, torch.zeros(ends.shape[1], 1, dtype=torch.float64))
    paths = scores.unflatten(1, (-1, count - 1))
    empty, full = ends[..., None, None].expand(-1, -1, paths.shape[1], 1)
    path = torch.cat([empty, paths, full], dim=-1)
    gains = path.diff().gather(2, ranks[: path.shape[1]].expand(len(path), -1, -1))
    of_pair = gains.unflatten(1, (-1, 2)).mean(2)
    pairs = of_pair.shape[1]
    errors = of_pair.std(1) / pairs**0.5 if pairs > 1 else torch.full_like(of_pair[:, 0], inf)
    return Estimate(of_pair.mean(1), errors)
