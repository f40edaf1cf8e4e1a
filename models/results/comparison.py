"""The base of results that compare images by a vector of each, or by the maps of one explainer."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn import functional

from models.errors import ConfigurationError
from models.outputs import EXPLAINER, Frame, Output
from models.results.base import Result, Stored
from models.results.nearest import stored_directions

_SIDE = 16


def places(frame: Frame) -> tuple[int, ...]:
    """Compute the number of places that maps are averaged to, along each side."""
    return tuple(min(_SIDE, side) for side in frame.grid)


class Comparison(Result):
    """A result that compares directions of vectors; maps are averaged to at most 16 places a side before."""

    of: str = Field("embedding", description="Vector that is compared; `attribution`: the maps of `explainer`")
    explainer: str | None = Field(None, description="Explainer whose maps are compared")

    @property
    def by(self) -> str:
        return self.of if self.explainer is None else f"the maps of {self.explainer}"

    def reads(self) -> tuple[str, ...]:
        return (self.of,)

    def check(self, outputs: Mapping[str, Output]) -> None:
        super().check(outputs)
        compared = outputs[self.of]
        labels = next((axis.labels for axis in compared.axes if axis.name == EXPLAINER), ())
        explainers = labels if isinstance(labels, tuple) else ()
        if compared.kind not in ("vector", "map"):
            raise ConfigurationError(
                f"results: {self.title} compares vectors or maps, but {self.of} is of the kind {compared.kind!r}: set "
                "`of` to the name of an embedding, or to `attribution`"
            )
        if compared.kind == "vector" and self.explainer is not None:
            raise ConfigurationError(
                f"results: {self.title} has explainer {self.explainer!r}, but compares the vector {self.of}: leave the "
                "explainer out, or set `of: attribution`"
            )
        if compared.kind == "map" and self.explainer not in explainers:
            raise ConfigurationError(
                f"results: {self.title} compares maps, but its explainer is {self.explainer!r}: set `explainer` to one "
                f"of {', '.join(map(str, explainers))}"
            )

    def directions(self, stored: Stored) -> NDArray[np.float32]:
        """Read the unit vector of each row, ``(image, feature)``; NaN where there is none."""
        if self.explainer is None:
            return stored_directions(stored, self.of)
        return stored_directions(stored, self.of, lambda maps: self._pooled(maps, stored.frame))

    def own_maps(self, maps: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
        """Take from maps ``(image, target, explainer, *space)`` those of the first target, ``(image, *space)``."""
        return maps[:, 0, frame.explainers.index(str(self.explainer))]

    def _pooled(self, maps: NDArray[np.float32], frame: Frame) -> NDArray[np.float32]:
        """Average maps ``(image, target, explainer, *space)`` of the first target to a few places."""
        own = torch.from_numpy(np.ascontiguousarray(self.own_maps(maps, frame)))
        pooled: NDArray[np.float32] = functional.interpolate(own[:, None], places(frame), mode="area").numpy()
        return pooled
