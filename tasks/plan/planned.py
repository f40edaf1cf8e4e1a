"""The items of a plan: what is computed in each stage, with the outputs as they are declared."""

import hashlib
from typing import Self

from pydantic import BaseModel, ConfigDict

from models.fits import FitConfig
from models.metrics import MetricConfig
from models.outputs import EXPLAINER, Output
from tasks.plan.counterfactual import ExplainerConfig
from tasks.plan.ensemble import UncertaintyConfig
from tasks.plan.regions import ResultConfig
from tasks.storage.location import Location


class StoredObject(BaseModel):
    """One stored object: its SHA-256 and its size in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sha256: str
    size: int

    @classmethod
    def of(cls, data: bytes) -> Self:
        return cls(sha256=hashlib.sha256(data).hexdigest(), size=len(data))


class Part(BaseModel):
    """Explainers that are asked together, and what they deliver of every shard. What extends an output is another part.

    Attributes
    ----------
    outputs
        Of an output along `explainer`, the part holds the places of its own explainers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    explainers: tuple[ExplainerConfig, ...]
    outputs: tuple[Output, ...]

    @property
    def maps(self) -> tuple[str, ...]:
        """Names of the explainers that make a map."""
        axes = (axis for output in self.outputs if output.kind == "map" for axis in output.axes)
        labels = next((axis.labels for axis in axes if axis.name == EXPLAINER), ())
        return () if isinstance(labels, int) else tuple(map(str, labels))

    def holds(self, name: str) -> bool:
        return any(output.name == name for output in self.outputs)


class PlannedFit(BaseModel):
    """An artefact that is computed before the shards.

    Attributes
    ----------
    images
        Ids of the images that the artefact is computed from.
    digest
        SHA-256 over what the artefact is computed from, and how.
    objects
        Every stored object by its key in the store; none as long as the artefact has not been computed.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    fit: FitConfig
    outputs: tuple[Output, ...]
    images: tuple[str, ...]
    digest: str
    objects: dict[str, StoredObject] = {}

    @property
    def title(self) -> str:
        return self.fit.title


class PlannedMetric(BaseModel):
    """A metric, which is computed from what is stored of each shard.

    Attributes
    ----------
    others
        Outputs whose maps of the same images these are compared with, and a digest over what they had delivered.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: MetricConfig
    outputs: tuple[Output, ...]
    others: tuple[Location, ...] = ()
    others_digest: str = ""

    @property
    def title(self) -> str:
        return self.metric.title


class PlannedUncertainty(BaseModel):
    """A kind of uncertainty, which is computed from what is stored of each shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    uncertainty: UncertaintyConfig
    outputs: tuple[Output, ...]

    @property
    def title(self) -> str:
        return self.uncertainty.title


class PlannedResult(BaseModel):
    """A result, which is computed over all images after the last shard."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    result: ResultConfig
    outputs: tuple[Output, ...]

    @property
    def title(self) -> str:
        return self.result.title
