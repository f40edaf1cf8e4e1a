from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.explainers.base import ExplainingInputs
from models.explainers.noise import generator
from models.explainers.supervoxels import SegmentExplainer
from models.questions import Batch, constant_score


class ShapleySampling(SegmentExplainer):
    """Shapley values of supervoxels by sampled permutations (Castro et al. 2009, doi:10.1016/j.cor.2008.04.004;
    Strumbelj and Kononenko 2014, doi:10.1007/s10115-013-0679-x).

    ``map[p] = mean over permutations of S(x_z with the segment of p) - S(x_z)``, with `z` the segments that come before
    it. Positive where the segment raises the logit. Complete over segments, however few permutations: they sum to
    ``S(x) - S(x0)``. It asks one question a permutation and segment. The fields of a record are further players:
    hidden, they are at their baseline.
    """

    name: Literal["shapley_sampling"] = "shapley_sampling"
    permutations: int = Field(10, ge=1, description="Orders in which the segments of an image are shown")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        ranks = [self._ranks(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]
        shown = [(rank[:, None] < torch.arange(1, rank.shape[1])[:, None]).flatten(0, 1) for rank in ranks]
        empty = yield from constant_score(batch, self.baseline)
        scores = yield from self.answers(batch, pieces, shown)
        ends = torch.stack([empty, batch.scores]).double().cpu().unbind(2)
        return pieces.attribution([_mean_gain(*parts) for parts in zip(ranks, scores, ends, strict=True)])

    def _ranks(self, count: int, image_id: str) -> Tensor:
        """Draw the place of each segment in each order: ``(permutation, segment)``."""
        purpose = "shapley_sampling"
        seeds = (generator(image_id, purpose, permutation) for permutation in range(self.permutations))
        return torch.stack([torch.randperm(count, generator=seeded) for seeded in seeds])


def _mean_gain(ranks: Tensor, scores: Tensor, ends: Tensor) -> Tensor:
    permutations, count = ranks.shape
    empty, full = ends[..., None, None].expand(-1, -1, permutations, 1)
    path = torch.cat([empty, scores.view(len(scores), permutations, count - 1), full], dim=-1)
    return path.diff().gather(2, ranks.expand(len(path), -1, -1)).mean(1)
