from math import comb
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.explainers.base import ExplainingInputs
from models.explainers.noise import generator
from models.explainers.supervoxels import SegmentExplainer
from models.questions import Batch, constant_score


class KernelSHAP(SegmentExplainer):
    """Kernel SHAP over supervoxels (Lundberg and Lee 2017, arXiv:1705.07874, theorem 2).

    ``map[p]`` is the Shapley value of the segment of p: the minimum of ``sum_z pi(z) (S(x_z) - S(x0) - phi.z)^2`` over
    coalitions `z` of the `n` segments, with ``sum(phi) = S(x) - S(x0)`` and
    ``pi(z) = (n - 1) / (C(n, |z|) |z| (n - |z|))``. Coalitions are drawn by `pi`, each with its complement (Covert and
    Lee 2021, arXiv:2012.01536); where there are no more than `samples`, all are asked, and the values are exact.
    Positive where the segment raises the logit. Complete over segments. The fields of a record are further players:
    hidden, they are at their baseline, and segments and fields are complete together.
    """

    name: Literal["kernel_shap"] = "kernel_shap"
    samples: int = Field(1000, ge=2, multiple_of=2, description="Coalitions an image; fewer where there are fewer")

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces = self.cut(batch)
        shown = [self._coalitions(count, name) for count, name in zip(pieces.players, batch.ids, strict=True)]
        empty = yield from constant_score(batch, self.baseline)
        scores = yield from self.answers(batch, pieces, shown)
        ends = torch.stack([empty, batch.scores]).double().cpu().unbind(2)
        values = [self._solve(*parts) for parts in zip(shown, scores, ends, strict=True)]
        return pieces.attribution(values)

    def _has_all(self, count: int) -> bool:
        return 2**count - 2 <= self.samples

    def _coalitions(self, count: int, image_id: str) -> Tensor:
        """Draw coalitions ``(question, segment)``, neither the empty nor the full one."""
        if self._has_all(count):
            return (torch.arange(1, 2**count - 1)[:, None] >> torch.arange(count) & 1).bool()
        sizes = torch.arange(1, count)
        odds = 1 / (sizes * (count - sizes))
        rows = []
        for pair in range(self.samples // 2):
            seeded = generator(image_id, "kernel_shap", pair)
            size = torch.multinomial(odds, 1, generator=seeded) + 1
            shown = torch.randperm(count, generator=seeded) < size
            rows += [shown, ~shown]
        return torch.stack(rows)

    def _solve(self, shown: Tensor, scores: Tensor, ends: Tensor) -> Tensor:
        """Solve for ``(target, segment)``: equal shares, which are complete, and deviations, which sum to zero."""
        count = shown.shape[1]
        sizes = shown.sum(1).tolist()
        kernel = [1 / (comb(count, size) * size * (count - size)) if self._has_all(count) else 1.0 for size in sizes]
        root = scores.new_tensor(kernel).sqrt()[:, None]
        empty, full = ends[..., None]
        share = (full - empty) / count
        ratio = shown.double().mean(1)
        rest = scores - empty - share * count * ratio
        # The smallest solution lies in the span of the rows, whose sums are zero.
        deviation = torch.linalg.pinv(root * (shown.double() - ratio[:, None])) @ (root * rest.T)
        return share + deviation.T
