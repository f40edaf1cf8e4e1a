"""The JSON schema of a configuration, for editors; with the short forms that a file may use."""

from typing import Any

from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema

from flows.config import RunConfig
from tasks.plan.recipe import ModelConfig, by_name
from tasks.storage.location import Location


def schema() -> dict[str, Any]:
    """Make the JSON schema (draft 2020-12) of a run's configuration."""
    content = RunConfig.model_json_schema(schema_generator=_ShortForms)
    return {"$schema": GenerateJsonSchema.schema_dialect, **content}


class _ShortForms(GenerateJsonSchema):
    """Says what pydantic cannot know of a validator that comes before the type: a text may stand for the whole."""

    def model_schema(self, schema: core_schema.ModelSchema) -> JsonSchemaValue:
        described = super().model_schema(schema)
        if schema["cls"] is Location:
            return {"anyOf": [{"type": "string"}, described]}
        return _or_of_a_bundle(described) if schema["cls"] is ModelConfig else described

    def function_before_schema(self, schema: core_schema.BeforeValidatorFunctionSchema) -> JsonSchemaValue:
        described = super().function_before_schema(schema)
        if schema["function"]["function"] is not by_name:
            return described
        kinds = described.get("discriminator", {}).get("mapping", {})
        return {"anyOf": [{"enum": list(kinds)} if kinds else {"type": "string"}, described]}


def _or_of_a_bundle(described: JsonSchemaValue) -> JsonSchemaValue:
    """Let a bundle stand for whatever else a model needs."""
    said = "A MONAI bundle, a folder or a .zip, which tells the fields that are not stated"
    named = {**described["properties"]["weights"], "description": said}
    bundled = {**described, "properties": {**described["properties"], "bundle": named}, "required": ["bundle"]}
    return {"anyOf": [described, bundled]}
