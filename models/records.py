"""Records: columns of a table as the numbers that a network takes beside an image."""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, GetJsonSchemaHandler, field_validator, model_validator
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from models.errors import ConfigurationError

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)(e[-+]?\d+)?", re.ASCII | re.IGNORECASE)


class RecordField(BaseModel):
    """A column as a number, ``(value - mean) / scale``; its name alone stands for one whose cells hold numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    name: str = Field(min_length=1, description="The column of the cohort table")
    values: dict[str, FiniteFloat] | None = Field(
        None,
        min_length=1,
        description="The number of each word that a cell may hold: {F: 0, M: 1}; none: it is a number",
    )
    mean: FiniteFloat = Field(0.0, description="Subtracted from each number, as when the network was trained")
    scale: FiniteFloat = Field(1.0, gt=0, description="The rest is divided by it")
    fill: FiniteFloat | str | None = Field(
        None, description="The content that stands for an empty cell; none: the image is quarantined"
    )
    baseline: FiniteFloat | str | None = Field(
        None,
        description="The content of a cell that stands in where an explainer takes the field away; none: the fill, and "
        "without one 0 in what the network takes",
    )

    @model_validator(mode="before")
    @classmethod
    def _by_name(cls, content: Any) -> Any:
        return {"name": content} if isinstance(content, str) else content

    @field_validator("values")
    @classmethod
    def _as_cells_are_read(cls, values: dict[str, float] | None) -> dict[str, float] | None:
        return values and {unicodedata.normalize("NFC", word.strip()): number for word, number in values.items()}

    @classmethod
    def __get_pydantic_json_schema__(cls, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {"anyOf": [{"type": "string"}, handler(schema)]}

    @model_validator(mode="after")
    def _is_readable(self) -> "RecordField":
        for stated in ("fill", "baseline"):
            if (value := getattr(self, stated)) is not None:
                try:
                    self.number(str(value))
                except ValueError:
                    allowed = "a number" if self.values is None else f"one of {', '.join(self.values)}"
                    raise ConfigurationError(f"the {stated} of {self.name!r} is {value!r}: state {allowed}") from None
        return self

    def number(self, cell: str | None) -> float:
        """Make the number that the network takes of a cell; None: an empty one.

        Raises
        ------
        ValueError
            If that cannot be done, with a reason that holds the name of the field, and nothing of the cell.
        """
        if cell is None and self.fill is None:
            raise ValueError(
                f"its record has no {self.name!r}: fill in the cell of the cohort table, or state a `fill` in "
                "cohort.record"
            )
        return self._standardised(self._value(str(self.fill) if cell is None else cell))

    @property
    def reference(self) -> float:
        """The number that stands in for the field where an explainer takes it away."""
        stated = self.fill if self.baseline is None else self.baseline
        return 0.0 if stated is None else self.number(str(stated))

    @property
    def tried(self) -> tuple[float, ...]:
        """Numbers to try a network on."""
        if self.values is None:
            return self.reference, self.reference + 1
        return tuple(map(self._standardised, self.values.values()))

    def _value(self, text: str) -> float:
        if self.values is None:
            if (value := read_number(text)) is None:
                raise ValueError(
                    f"the {self.name!r} of its record is no number: mend the cell of the cohort table, or state the "
                    "`values` of words in cohort.record"
                )
            return value
        text = unicodedata.normalize("NFC", text)
        for word in (text, text.removesuffix(".0")):  # pandas writes whole numbers so where a column has gaps
            if word in self.values:
                return self.values[word]
        raise ValueError(
            f"the {self.name!r} of its record is none of the `values` in cohort.record: mend the cell of the cohort "
            "table, or state its number there"
        )

    def _standardised(self, value: float) -> float:
        with np.errstate(over="ignore"):
            number = float(np.float32((value - self.mean) / self.scale))
        if not np.isfinite(number):
            raise ValueError(f"the {self.name!r} of its record is too large for single precision: mend the cell")
        return number


def read_number(text: str) -> float | None:
    """Read a cell as a number, with a point before its decimals; None: it is none."""
    return float(text) if _NUMBER.fullmatch(text) else None


def record_digest(record: Sequence[float]) -> str:
    """SHA-256 of the numbers in single precision, little-endian."""
    return hashlib.sha256(np.asarray(record, "<f4").tobytes()).hexdigest()
