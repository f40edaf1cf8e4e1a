from typing import Literal

import torch

from models.explainers.base import ChannelExplainer, Explaining, ExplainingChannels, ExplainingInputs
from models.explainers.fields import ablated_fields
from models.explainers.supervoxels import SegmentExplainer, Supervoxels
from models.questions import Batch


class FeatureAblation(ChannelExplainer, SegmentExplainer):
    """Feature ablation of supervoxels (Robnik-Sikonja and Kononenko 2008, doi:10.1109/TKDE.2007.190734).

    ``map[p] = S(x) - S(x without the segment of p)``. Positive where hiding the segment lowers the logit. It asks one
    question a segment. A segment is hidden in all channels; for the maps of each channel, it is hidden in one channel
    after the other as well. Of a record, each field is taken away by itself.
    """

    name: Literal["feature_ablation"] = "feature_ablation"

    def explain(self, batch: Batch) -> Explaining:
        return (yield from self._hide(batch, self.cut(batch), None))

    def explain_channels(self, batch: Batch) -> ExplainingChannels:
        pieces, channels = self.cut(batch), []
        maps = yield from self._hide(batch, pieces, None)
        for channel in range(batch.images.shape[1]):
            channels.append((yield from self._hide(batch, pieces, channel)))
        return maps, torch.stack(channels, dim=2)

    def explain_inputs(self, batch: Batch) -> ExplainingInputs:
        made = yield from super().explain_inputs(batch)
        return made._replace(record=(yield from ablated_fields(batch)))

    def _hide(self, batch: Batch, pieces: Supervoxels, channel: int | None) -> Explaining:
        """Hide each segment in one channel, or in all."""
        shown = [~torch.eye(count, dtype=torch.bool) for count in pieces.counts]
        scores = yield from self.answers(batch, pieces, shown, channel)
        whole = batch.scores.double().cpu().unbind(1)
        drops = [full[:, None] - score for full, score in zip(whole, scores, strict=True)]
        return pieces.paint(drops).to(batch.images)
