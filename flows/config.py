"""A run's configuration: one YAML file, and the parameter of the flow."""

from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, TypeVar

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError, field_validator

from flows.cluster import ComputeConfig
from flows.errors import ConfigurationError
from models.explainers import ExplainerConfig
from models.metrics import MetricConfig
from models.targets import Predicted, TargetConfig
from tasks.cohort import CohortConfig
from tasks.ensemble import UncertaintyConfig
from tasks.plan import ModelConfig
from tasks.selection import Selection
from tasks.storage import Location


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
    """One line an error: field, what is wrong, what was found."""
    return "\n".join(_line(detail) for detail in error.errors(include_url=False))


def _line(detail: Any) -> str:
    field = ".".join(map(str, detail["loc"]))
    if detail["type"] == "extra_forbidden":
        return f"  {field}: there is no such field; {_allowed(detail['loc'])}"
    found = "" if detail["type"] == "missing" else f" (found {detail['input']!r:.80})"
    return f"  {field}: {detail['msg']}{found}"


def _allowed(loc: tuple[str | int, ...]) -> str:
    model: Any = RunConfig
    for part in loc[:-1]:
        field = model.model_fields.get(part)
        if field is None or not isinstance(field.annotation, type) or not issubclass(field.annotation, BaseModel):
            return "see `cohortlens run --help` for the configuration"
        model = field.annotation
    return f"allowed are {', '.join(model.model_fields)}"
