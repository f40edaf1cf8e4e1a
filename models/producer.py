"""Producers: named classes that compute outputs, with their parameters; and the registries that list them."""

from functools import cached_property, reduce
from operator import or_
from typing import Annotated, Any, ClassVar, Generic, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, core_schema

from models.capability import Capabilities

_LONGEST = 48
"""A file's name has at most 255 bytes: so many characters of 4, and what is put behind them."""


class Producer(BaseModel):
    """A named way to compute outputs; its fields are its parameters.

    Attributes
    ----------
    requires
        How the network has to be asked beside for its answers.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str
    label: str | None = Field(
        None,
        pattern=r"^[^/.\x00-\x1f][^/\x00-\x1f]*$",
        max_length=_LONGEST,
        description="Name in the store; none: `name`",
    )

    requires: ClassVar[Capabilities] = frozenset()

    @property
    def title(self) -> str:
        return self.label or self.name

    @property
    def references(self) -> str:
        """The docstring of the class, formula and source, on one line."""
        return " ".join((type(self).__doc__ or "").split())

    @property
    def deciding(self) -> dict[str, Any]:
        """The parameters that decide what is computed; where a file lies does not."""
        return self.model_dump(mode="json")

    def pinned(self) -> Self:
        """Return a copy that has the digest of every file that the producer names."""
        return self


P = TypeVar("P", bound=Producer)


class Registry(Generic[P]):
    """A registry of the kinds of one sort of producer, by name. As an annotation, it makes a field of any such kind.

    The field also takes a kind that is added later.
    """

    def __init__(self, *kinds: type[P]) -> None:
        self.kinds: dict[str, type[P]] = {}
        for kind in kinds:
            self.add(kind)

    def add(self, kind: type[P]) -> type[P]:
        self.kinds[kind.model_fields["name"].default] = kind
        self.__dict__.pop("adapter", None)
        return kind

    def remove(self, kind: type[P]) -> None:
        del self.kinds[kind.model_fields["name"].default]
        self.__dict__.pop("adapter", None)

    @cached_property
    def adapter(self) -> TypeAdapter[P]:
        kinds = list(self.kinds.values())
        union: Any = reduce(or_, kinds)
        wanted: Any = Annotated[union, Discriminator("name")] if len(kinds) > 1 else union
        return TypeAdapter(wanted)

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_plain_validator_function(
            self._validate,
            serialization=core_schema.plain_serializer_function_ser_schema(
                lambda one, info: one.model_dump(mode=info.mode), info_arg=True
            ),
        )

    def _validate(self, value: Any) -> P:
        return self.adapter.validate_python(value)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"enum": list(self.kinds)}, handler(self.adapter.core_schema)]}
