from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from models.explainers.base import ChannelExplainer, ExplainingInputs
from models.explainers.fields import ablated_fields
from models.explainers.supervoxels import SegmentExplainer, Supervoxels
from models.questions import Batch, Questions


class FeatureAblation(ChannelExplainer, SegmentExplainer):
    """Feature ablation of supervoxels (Robnik-Sikonja and Kononenko 2008, doi:10.1109/TKDE.2007.190734).

    ``map[p] = S(x) - S(x without the segment of p)``. Positive where hiding the segment lowers the logit. It asks one
    question a segment. A segment is hidden in all channels; for the maps of each channel, it is hidden in one channel
    after the other as well. Of a record, each field is taken away by itself.
    """

    name: Literal["feature_ablation"] = "feature_ablation"

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        pieces, channels = self.cut(batch), []
        made = pieces.attribution((yield from self._hide(batch, pieces, None)))
        for channel in range(batch.images.shape[1]) if batch.keeps_channels else ():
            channels.append(pieces.paint((yield from self._hide(batch, pieces, channel))))
        record = yield from ablated_fields(batch)
        return made._replace(channels=torch.stack(channels, dim=2) if channels else None, record=record)

    def _hide(self, batch: Batch, pieces: Supervoxels, channel: int | None) -> Generator[Questions, None, list[Tensor]]:
        """Hide each segment in one channel, or in all; return the drops of each image, ``(target, segment)``."""
        shown = [~torch.eye(count, dtype=torch.bool) for count in pieces.counts]
        scores = yield from self.answers(batch, pieces, shown, channel)
        whole = batch.scores.double().cpu().unbind(1)
        return [full[:, None] - score for full, score in zip(whole, scores, strict=True)]
