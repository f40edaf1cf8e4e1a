"""The recipe: everything a run is told that decides the bytes of its result."""

import hashlib
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, field_validator, model_validator

from models.errors import ConfigurationError
from models.explainers.base import require_channels
from models.heads import HeadConfig
from models.loading import Files
from models.metrics import MetricConfig
from models.network import Precision
from models.network_config import NetworkConfig, OneOrSeveral
from models.outputs import Channels
from models.targets import Predicted, TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.plan.counterfactual import ExplainerConfig
from tasks.plan.ensemble import UncertaintyConfig
from tasks.plan.regions import ResultConfig
from tasks.storage.location import Location


def by_file(value: Any) -> Any:
    """Let the place of a file alone stand for it."""
    return {"weights": value} if isinstance(value, str) or (isinstance(value, dict) and "url" in value) else value


class HeadFile(HeadConfig):
    """The file of what follows the network."""

    weights: Location = Field(description="A .safetensors, .pt or .npy file")


class ModelConfig(NetworkConfig):
    """The model to explain."""

    weights: OneOrSeveral[Location] = Field(
        description="A file of weights, or one that holds the network, too; a list: the folds of one model",
    )
    head: Annotated[HeadFile, BeforeValidator(by_file)] | None = Field(
        None, description="A linear layer on the features that the network returns: a state dict of weight and bias"
    )
    reference: Annotated[HeadFile, BeforeValidator(by_file)] | None = Field(
        None,
        description="Features of a reference for each class, by its name, or a .npy file of them in the order of "
        "classes: the outputs are the cosine similarities to them",
    )

    @model_validator(mode="after")
    def _has_one_head(self) -> Self:
        if self.head and self.reference:
            raise ValueError("head and reference are both given: name one of them")
        return self

    @property
    def files(self) -> tuple[tuple[str, Location], ...]:
        """Every file of the model, after the field that names it: those of the weights come first."""
        weights = self.weights if isinstance(self.weights, tuple) else (self.weights,)
        last = [(name, head.weights) for name in ("head", "reference") if (head := getattr(self, name))]
        return (*(("weights", one) for one in weights), *last)

    def read(self) -> Files:
        """Read the files.

        Raises
        ------
        OSError
            If one is missing or cannot be read.
        """
        weights = tuple(file.read() for name, file in self.files if name == "weights")
        return Files(weights, next((file.read() for name, file in self.files if name != "weights"), None))

    def pinned(self, files: Files) -> Self:
        """Copy it, with the digests of its files."""
        head = self.head or self.reference
        name = "head" if self.head else "reference"
        digest = files.head and hashlib.sha256(files.head).hexdigest()
        after = {name: head.model_copy(update={"sha256": digest})} if head else {}
        return self.model_copy(update={"sha256": files.digests, **after})


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
    channels: Channels = Field(
        "combine",
        title="Channels",
        description="keep: maps of each channel, such as an MRI sequence, are stored beside those that combine them",
    )
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

    @model_validator(mode="after")
    def _has_channels_to_keep(self) -> "Recipe":
        if self.channels == "keep":
            require_channels(self.explainers, self.model.channels)
        return self

    @model_validator(mode="after")
    def _takes_bags(self) -> "Recipe":
        slides, shape = self.cohort.slides, self.model.input_shape
        if slides is not None and (len(shape) != 3 or shape[0] != slides.tiles):
            raise ConfigurationError(
                f"model.input_shape: {list(shape)}, but a slide is a bag of {slides.tiles} tiles (cohort.slides): "
                f"give [{slides.tiles}, {slides.tile}, {slides.tile}], and a network that takes such bags"
            )
        if slides is not None and self.model.windows is not None:
            raise ConfigurationError("model.windows: a slide's windows are the tiles of its bag: leave windows out")
        return self
