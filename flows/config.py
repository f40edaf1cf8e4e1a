"""A run's configuration: one YAML file, and the parameter of the flow."""

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

from pydantic import (
    BaseModel,
    Field,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from flows.bundle import expanded
from flows.cluster import PlaceConfig
from flows.yaml import read_yaml
from models.errors import ConfigurationError
from models.metrics import MetricConfig
from models.network_config import BY_NUMBER
from models.producer import Registry
from tasks.cohort.listing import would_list
from tasks.cohort.selection import Selection
from tasks.plan.recipe import Named, Recipe
from tasks.storage.credentials import holds_credentials
from tasks.storage.location import Location

_PLAIN_URL = r"^https?://[^?#@\s]+$"
"""A URL without credentials, a signature or anything else that Prefect should not be told."""


def described(text: str) -> Any:
    """Describe a flow's parameter in Prefect's form, which reads no NumPy docstrings and replaces a field's text."""
    return Field(json_schema_extra={"description": text})


class RunConfig(Recipe):
    """Everything a run is told: the recipe, where the result goes, and where the work is done."""

    output: Location = Field(title="Output", description="Folder or S3 prefix of the run's output, and of nothing else")
    output_url: str | None = Field(
        None,
        title="Address of the output",
        description="Where a browser finds the output's folder; none: where `cohortlens view` shows it, by the "
        "environment, or else the UI shows no pictures",
        pattern=_PLAIN_URL,
    )
    compute: PlaceConfig = Field(PlaceConfig(), title="Compute", description="Where the work is done")

    @property
    def recipe(self) -> Recipe:
        return Recipe.model_construct(**{name: getattr(self, name) for name in Recipe.model_fields})

    @model_validator(mode="before")
    @classmethod
    def _recipe_is_not_of_the_place(cls, content: Any) -> Any:
        """Take `batch_size` and `precision` also from below `compute`, where earlier versions had them."""
        compute = content.get("compute") if isinstance(content, dict) else None
        if not isinstance(compute, dict):
            return content
        moved = {name: compute[name] for name in ("batch_size", "precision") if name in compute and name not in content}
        return content | moved | {"compute": {name: value for name, value in compute.items() if name not in moved}}

    @model_validator(mode="before")
    @classmethod
    def _bundle_stands_for_its_fields(cls, content: Any) -> Any:
        return expanded(content) if isinstance(content, dict) else content

    @model_validator(mode="after")
    def _output_is_not_of_the_cohort(self) -> "RunConfig":
        written = ("manifest.parquet", "report/index.html", "explanations.zarr/logit/zarr.json")
        if any(would_list(self.cohort.source, self.output / name) for name in written):
            raise ValueError(
                f"the output {self.output} lies in the cohort {self.cohort.source}, whose next run would take its "
                "files for images: name an output outside of it, or narrow cohort.source with a glob"
            )
        return self


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
        With one line for each wrong field: where it is, what was found and what is allowed. With line and column if
        the file is no YAML.
    """
    return check(read_yaml(path.read_bytes(), str(path)), str(path))


def check(content: Any, name: str = "this") -> RunConfig:
    """Check the content of a configuration.

    Raises
    ------
    ConfigurationError
        With one line for each wrong field: where it is, what was found and what is allowed.
    """
    if not isinstance(content, Mapping):
        raise ConfigurationError(
            f"{name} must hold cohort, model, explainers and output; found {type(content).__name__}"
        )
    try:
        return RunConfig.model_validate(dict(content))
    except ValidationError as error:
        raise ConfigurationError(f"{name} is not a valid configuration:\n{explain_errors(error)}") from error


def explain_errors(error: ValidationError) -> str:
    """Describe each error in one line: the field, what is wrong with it, what was found and what is allowed."""
    details: list[Any] = [
        {**one, "loc": tuple(part for part in one["loc"] if part not in BY_NUMBER)}
        for one in error.errors(include_url=False)
    ]
    # Pydantic says that a list is too short, too, if one of its items is wrong.
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
    secret = "credentials" in detail["msg"] or holds_credentials(repr(detail["input"]))
    shown = field and detail["type"] != "missing" and not secret
    found = f" (found {detail['input']!r:.80})" if shown else ""
    return f"  {field or 'as a whole'}: {detail['msg'].removeprefix('Value error, ')}{found}{_remedy(detail)}"


def _remedy(detail: Any) -> str:
    """Say how YAML writes what was meant, where it was read as something else."""
    wanted, value = detail["type"], detail["input"]
    if wanted == "string_type" and (value is None or isinstance(value, bool | int | float)):
        return ": put it in quotes, spelt as it is meant"
    if wanted == "tuple_type":
        return ": a list is needed, such as [a, b]"
    if wanted in ("int_type", "float_type") and isinstance(value, str) and re.fullmatch(r"[-+]?\d+(\.\d+)?", value):
        return ": leave out the quotes"
    return ""


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
    if isinstance(annotation, Registry):
        return list(annotation.kinds.values())
    if registered := [of for of in get_args(annotation) if isinstance(of, Registry)]:
        return _models(registered[0])
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in _models(inner)]
