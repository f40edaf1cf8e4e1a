from typing import Literal

import torch

from models.explainers.base import Explaining
from models.explainers.supervoxels import SegmentExplainer
from models.questions import Batch


class FeatureAblation(SegmentExplainer):
    """Feature ablation of supervoxels (Robnik-Sikonja and Kononenko 2008, doi:10.1109/TKDE.2007.190734).

    ``map[p] = S(x) - S(x without the segment of p)``. Positive where hiding the segment lowers the logit. It asks one
    question a segment.
    """

    name: Literal["feature_ablation"] = "feature_ablation"

    def explain(self, batch: Batch) -> Explaining:
        pieces = self.cut(batch)
        shown = [~torch.eye(count, dtype=torch.bool) for count in pieces.counts]
        scores = yield from self.answers(batch, pieces, shown)
        whole = batch.scores.double().cpu().unbind(1)
        drops = [full[:, None] - score for full, score in zip(whole, scores, strict=True)]
        return pieces.paint(drops).to(batch.images)
