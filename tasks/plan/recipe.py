"""The recipe: everything a run is told that decides the bytes of its result."""

from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator

from models.explainers import ExplainerConfig
from models.metrics import MetricConfig
from models.network import NetworkConfig, Precision
from models.results import ResultConfig
from models.targets import Predicted, TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.plan.ensemble import UncertaintyConfig
from tasks.storage.location import Location


class ModelConfig(NetworkConfig):
    """The model to explain."""

    weights: Location = Field(description="A .safetensors file, or a .pt file that holds a state dict and nothing else")


def by_name(value: Any) -> Any:
    """Let a name alone stand for a producer with its standard parameters."""
    return {"name": value} if isinstance(value, str) else value


T = TypeVar("T")
Named = Annotated[T, BeforeValidator(by_name)]
"""A field whose value may be given by its name alone: ``gradcam``."""


def once_each(named: tuple[Any, ...]) -> tuple[Any, ...]:
    """Raise ValueError if two producers have the same title; return them."""
    titles = [one.title for one in named]
    if repeated := sorted({title for title in titles if titles.count(title) > 1}):
        raise ValueError(f"named more than once: {', '.join(repeated)}; give each a `label`")
    return named


class Recipe(BaseModel):
    """All that decides the result: what is explained, and how. Where the work is done decides nothing."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cohort: CohortConfig = Field(title="Cohort", description="Which images, and how they are prepared")
    model: ModelConfig = Field(title="Model", description="The trained network")
    explainers: tuple[Named[ExplainerConfig], ...] = Field(
        title="Explainers", description="How maps are made", strict=False, min_length=1
    )
    target: Named[TargetConfig] = Field(Predicted(), title="Target", description="Which output is explained")
    metrics: tuple[Named[MetricConfig], ...] = Field(
        (), title="Metrics", description="What the maps are evaluated by; more can be computed later", strict=False
    )
    uncertainty: tuple[Named[UncertaintyConfig], ...] = Field(
        (), title="Uncertainty", description="How sure predictions and maps are, and by what members", strict=False
    )
    results: tuple[Named[ResultConfig], ...] = Field(
        (), title="Results", description="What is computed over all images once they are explained", strict=False
    )
    batch_size: int = Field(16, ge=1, title="Batch size", description="Images, or windows of them, explained at once")
    precision: Precision = Field(
        "fp32",
        title="Precision",
        description="bf16: of the plain questions to the network, if the maps agree with those of fp32",
    )

    @field_validator("explainers", "metrics", "uncertainty", "results")
    @classmethod
    def _once_each(cls, named: tuple[Any, ...]) -> tuple[Any, ...]:
        return once_each(named)
