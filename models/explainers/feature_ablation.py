from collections.abc import Generator
from typing import Literal

import torch
from torch import Tensor

from models.explainers.base import ChannelExplainer, ExplainingInputs
from models.explainers.fields import ablated_fields
from models.explainers.supervoxels import SegmentExplainer, Supervoxels
from models.questions import Ask, Batch, Questions, plainly
from models.rules.incremental import AskBoxes


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
        corners, sides = pieces.boxes()
        # Neighbours in a batch take the room of the largest: the segments are asked about by their size.
        order = sides.prod(2).argsort(dim=1, descending=True, stable=True)
        turns = [own[:count].cpu() for own, count in zip(order, pieces.counts, strict=True)]
        shown = [~torch.eye(len(turn), dtype=torch.bool)[turn] for turn in turns]
        at = order[..., None].expand_as(corners)
        by_boxes = batch.network.tiles.is_whole and not batch.network.fields
        ask: Ask = AskBoxes(batch.images, corners.gather(1, at), sides.gather(1, at)) if by_boxes else plainly
        scores = yield from self.answers(batch, pieces, shown, channel, ask=ask)
        whole = batch.scores.double().cpu().unbind(1)
        return [
            (full[:, None] - score)[:, turn.argsort()] for full, score, turn in zip(whole, scores, turns, strict=True)
        ]
