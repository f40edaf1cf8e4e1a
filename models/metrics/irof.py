from math import inf
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.errors import ConfigurationError
from models.explainers.fill import Fill
from models.explainers.supervoxels import Supervoxels, cut
from models.metrics.base import Evaluated, Evaluating, MapMetric, Values, ask, ask_hidden
from models.metrics.ranking import drawn_order
from models.network import Network


class IROF(MapMetric):
    """Iterative removal of features (Rieger and Hansen 2020, arXiv:2003.08747).

    ``1 - int_0^1 P(x without the share s of its segments that are strongest) / P(x) ds`` by trapezoids, with `P` the
    target's probability: the area over the curve. Segments are SLIC's, hidden one by one; a segment's strength is the
    mean of the signed map over it. At most 1; higher is better. NaN where the network does not decide for the target: a
    share of a probability near 0 says nothing.
    """

    family = "faithfulness"
    better = "higher"
    range = (-inf, 1.0)
    name: Literal["irof"] = "irof"
    segments: int = Field(50, ge=1, description="About how many supervoxels an image is cut into")
    compactness: float = Field(0.3, gt=0, description="Weight of nearness against likeness; large: a grid")
    fill: Fill = "mean"

    def check(self, network: Network) -> None:
        if network.config.activation == "identity":
            raise ConfigurationError(
                f"{self.title}: the model is a regression (model.activation: identity) and decides nothing"
            )

    def evaluate(self, evaluated: Evaluated) -> Evaluating:
        images, filled = evaluated.batch.images, evaluated.explained.filled(self.fill)
        key = ("supervoxels", self.segments, self.compactness)
        pieces = evaluated.explained.once(key, lambda: cut(images, self.segments, self.compactness))
        ranks = _ranks(evaluated, pieces)

        def make(image: Tensor, step: Tensor) -> Tensor:
            labels = pieces.labels[image]
            hidden = (ranks[image] <= step[:, None]).gather(1, labels.flatten(1)).view_as(labels)
            return images[image].where(~hidden[:, None], filled[image])

        wholly = yield from ask_hidden(evaluated, self.fill, "probability")
        most = max(pieces.counts) - 1
        middle = yield from ask(evaluated, most, make, (self.name, *key[1:], self.fill), "probability")
        plain = evaluated.batch.answers[evaluated.target]
        whole = plain.probability[:, None].double()
        curve = torch.cat([whole, middle, wholly], dim=1) / whole
        counts = torch.tensor(pieces.counts, device=curve.device)
        steps = torch.arange(most + 1, device=curve.device) < counts[:, None]
        area = ((curve[:, 1:] + curve[:, :-1]) / 2 * steps).sum(1) / counts
        return Values((1 - area).where(plain.decided, torch.nan))


def _ranks(evaluated: Evaluated, pieces: Supervoxels) -> Tensor:
    """Rank the segments of each image by their mean of the map, 0 for the strongest: ``(image, segment)``."""
    ranks = pieces.labels.new_zeros(len(pieces.counts), max(pieces.counts))
    for row, count in enumerate(pieces.counts):
        image, labels = torch.tensor([row]), pieces.labels[row].flatten().cpu()  # where sums are of one order
        values = evaluated.of(image).flatten().cpu().double()
        means = torch.zeros(count, dtype=torch.float64).index_add_(0, labels, values) / labels.bincount()
        ranks[row, :count] = drawn_order(evaluated.batch, image, means[None].float())[0]  # equal where the map is
    return ranks
