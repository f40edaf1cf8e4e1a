from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from models.capability import GRADIENT, LAYERS
from models.explainers.pooled import LAYER
from models.network import Network
from models.outputs import Axis, Frame, Output
from models.results.ascent import Score
from models.results.base import Stored
from models.results.visualisation import Visualisation


class ConceptVisualisation(Visualisation):
    """Pictures that raise a concept: ``mean_p A(p) v``, where ``A`` is the output of the layer by which `tcav` tells
    the concept, and ``v`` its direction; and measures along the ascent.

    The score is raised as `class_visualisation` raises a logit. It is NaN where a label is no concept.
    """

    name: Literal["concept_visualisation"] = "concept_visualisation"
    of: str = Field("tcav", description="Result `tcav`, by its label if it has one")

    requires = GRADIENT | LAYERS

    @property
    def directions(self) -> str:
        return f"{self.of}_direction"

    def reads(self) -> tuple[str, ...]:
        return (*super().reads(), self.directions)

    def aim(self, frame: Frame) -> tuple[str, tuple[Axis, ...]]:
        return f"{self.of}_concept", ()

    def scores(self, stored: Stored) -> list[Score | None]:
        network, layer = stored.network, _layer(self.directions, stored.outputs)
        directions = torch.from_numpy(stored.whole(self.directions)[self.directions]).to(network.synthetic(1))
        return [_along(network, layer, one) if one.isfinite().all() else None for one in directions]


def _layer(directions: str, outputs: Mapping[str, Output]) -> str:
    """Find the layer that directions are of, by the dimension of its features."""
    feature = outputs[directions].dims[-1]
    return next(str(one.attrs[LAYER]) for one in outputs.values() if LAYER in one.attrs and feature in one.dims)


def _along(network: Network, layer: str, direction: Tensor) -> Score:
    def score(picture: Tensor) -> Tensor:
        with network.watch([layer]) as outputs:
            network(picture)
        return outputs[layer].flatten(2).mean(-1) @ direction

    return score
