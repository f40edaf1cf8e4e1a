"""A run's configuration: one YAML file, and the parameter of the flow."""

import difflib
import re
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar, get_args

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationError,
    field_validator,
    model_validator,
)

from flows.cluster import ComputeConfig
from flows.errors import ConfigurationError
from models.explainers import ExplainerConfig
from models.metrics import MetricConfig
from models.targets import Predicted, TargetConfig
from tasks.cohort.config import CohortConfig
from tasks.cohort.selection import Selection
from tasks.cohort.sources import would_list
from tasks.plan.ensemble import UncertaintyConfig
from tasks.plan.plan import ModelConfig
from tasks.storage.location import Location


def _by_name(value: Any) -> Any:
    return {"name": value} if isinstance(value, str) else value


_PLAIN_URL = r"^https?://[^?#@\s]+$"
"""Without credentials, a signature or anything else that Prefect should not be told."""


def described(text: str) -> Any:
    """Describe a flow's parameter in Prefect's form, which reads no NumPy docstrings and replaces a field's text."""
    return Field(json_schema_extra={"description": text})


T = TypeVar("T")
Named = Annotated[T, BeforeValidator(_by_name)]
"""Of what may be given by its name alone."""


class RunConfig(BaseModel):
    """Everything a run is told. Explainers and the target may be given by name alone: ``gradcam``."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    cohort: CohortConfig = Field(title="Cohort", description="Which images, and how they are prepared")
    model: ModelConfig = Field(title="Model", description="The trained network")
    explainers: tuple[Named[ExplainerConfig], ...] = Field(
        title="Explainers", description="How maps are made", strict=False, min_length=1
    )
    target: Named[TargetConfig] = Field(Predicted(), title="Target", description="Which output is explained")
    metrics: tuple[Named[MetricConfig], ...] = Field(
        (), title="Metrics", description="What the maps are judged by; more can be computed later", strict=False
    )
    uncertainty: tuple[Named[UncertaintyConfig], ...] = Field(
        (), title="Uncertainty", description="How sure predictions and maps are, and by what members", strict=False
    )
    output: Location = Field(title="Output", description="Folder or S3 prefix of the run's output, and of nothing else")
    report_url: str | None = Field(
        None,
        title="Address of the report",
        description="Where a browser finds the output's folder `report`; none: the UI shows no pictures",
        pattern=_PLAIN_URL,
    )
    compute: ComputeConfig = Field(ComputeConfig(), title="Compute", description="Where the work is done")

    @model_validator(mode="after")
    def _output_is_not_of_the_cohort(self) -> "RunConfig":
        written = ("manifest.parquet", "report/index.html", "explanations.zarr/logit/zarr.json")
        if any(would_list(self.cohort.source, self.output / name) for name in written):
            raise ValueError(
                f"the output {self.output} lies in the cohort {self.cohort.source}, whose next run would take its "
                "files for images: name an output outside of it, or narrow cohort.source with a glob"
            )
        return self

    @field_validator("explainers", "metrics", "uncertainty")
    @classmethod
    def _once_each(cls, named: tuple[Any, ...]) -> tuple[Any, ...]:
        repeated = [name for name, count in Counter(one.title for one in named).items() if count > 1]
        if repeated:
            raise ValueError(f"named more than once: {', '.join(repeated)}; give each a `label`")
        return named


def named_metrics(names: Sequence[str]) -> tuple[MetricConfig, ...]:
    """Make metrics with their standard parameters.

    Raises
    ------
    ConfigurationError
        If there is no such metric.
    """
    try:
        return TypeAdapter(tuple[Named[MetricConfig], ...]).validate_python(tuple(names))
    except ValidationError as error:
        raise ConfigurationError(f"--metric:\n{explain_errors(error)}") from error


def make_selection(
    ids: Sequence[str], modality: Sequence[str], modified_after: datetime | None, modified_before: datetime | None
) -> Selection:
    """Select images as the command line names them, its times in UTC.

    Raises
    ------
    ConfigurationError
        If there is no such modality.
    """
    after, before = (time and time.replace(tzinfo=UTC) for time in (modified_after, modified_before))
    try:
        return Selection(ids=tuple(ids), modality=tuple(modality), modified_after=after, modified_before=before)
    except ValidationError as error:
        raise ConfigurationError(explain_errors(error)) from error


def load(path: Path) -> RunConfig:
    """Read and check a configuration file.

    Raises
    ------
    ConfigurationError
        With one line for each wrong field: where it is, what was found and what is allowed.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise ConfigurationError(
            f"{path} must hold cohort, model, explainers and output; found {type(content).__name__}"
        )
    try:
        return RunConfig.model_validate(content)
    except ValidationError as error:
        raise ConfigurationError(f"{path} is not a valid configuration:\n{explain_errors(error)}") from error


def explain_errors(error: ValidationError) -> str:
    """One line an error: field, what is wrong, what was found, what is allowed."""
    details = error.errors(include_url=False)
    # A list of which an item is wrong is said to be too short as well.
    told = [one for one in details if one["type"] != "too_short" or not _is_of_an_item(one["loc"], details)]
    return "\n".join(_line(detail) for detail in told)


def _is_of_an_item(loc: tuple[str | int, ...], details: Sequence[Any]) -> bool:
    return any(len(other["loc"]) > len(loc) and other["loc"][: len(loc)] == loc for other in details)


def _line(detail: Any) -> str:
    field = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"  {field}: there is no such field; {_allowed(detail['loc'])}"
    if detail["type"] == "union_tag_invalid":
        tag, known = detail["ctx"]["tag"], re.findall(r"'(\w+)'", detail["ctx"]["expected_tags"])
        nearest = difflib.get_close_matches(tag, known, n=3)
        return f"  {field}: there is no {tag!r}; " + (
            f"the nearest are {', '.join(nearest)}" if nearest else f"there are {', '.join(known)}"
        )
    found = "" if detail["type"] == "missing" or not field else f" (found {detail['input']!r:.80})"
    return f"  {field or 'as a whole'}: {detail['msg'].removeprefix('Value error, ')}{found}"


def _allowed(loc: tuple[str | int, ...]) -> str:
    models: list[type[BaseModel]] = [RunConfig]
    for part in loc[:-1]:
        if isinstance(part, str):
            named = [model for model in models if "name" in model.model_fields and _name(model) == part]
            fields = [model.model_fields[part] for model in models if part in model.model_fields]
            models = named or [model for field in fields for model in _models(field.annotation)]
    return f"allowed are {', '.join(dict.fromkeys(name for model in models for name in model.model_fields))}"


def _name(model: type[BaseModel]) -> Any:
    return model.model_fields["name"].default


def _models(annotation: Any) -> list[type[BaseModel]]:
    """The models that a field may hold, however they are wrapped."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
