"""The rating: what a reader thinks of a prediction and its maps, as one JSON file.

The page writes it, in TypeScript; ``docs/ratings.md`` has an example and says where each field comes from.
"""

from collections.abc import Iterable
from typing import Annotated, Any, Literal, Self
from urllib.parse import quote

import numpy as np
from numpy.typing import NDArray
from pydantic import AwareDatetime, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from tasks.storage.location import Location
from tasks.store.commit import Commit

FOLDER = "ratings"
VERSION = 1
LARGEST = 2**20
"""Bytes that a rating may have: a region of a volume of 256 x 256 x 256 with 60,000 runs fits."""

Verdict = Literal["agree", "disagree", "unsure"]
VERDICTS: tuple[Verdict, ...] = ("agree", "disagree", "unsure")

_Sha256 = Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
_Name = Annotated[str, Field(min_length=1, max_length=300)]


def _written(value: Any) -> Any:
    """Refuse a number: it would be taken for seconds since 1970."""
    if str(value).lstrip("-").replace(".", "", 1).isdecimal():
        raise ValueError("a time is written as in ISO 8601, with the offset to UTC")
    return value


_Time = Annotated[AwareDatetime, BeforeValidator(_written)]


class _Stated(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, hide_input_in_errors=True)


class Seen(_Stated):
    """The case as the rater saw it: the digests by which ``commits/<shard>.json`` names the image and its maps.

    They stay the same when other images or explainers are added, metrics are computed or another subject is withdrawn;
    the digest of the plan would not.
    """

    shard: int = Field(ge=0, description="Shard of the image: its value of the store's array `shard`")
    row: str = Field(
        pattern="^[0-9a-f]{16}$",
        description="Digest of the image: the commit's `rows`, at the image's place among those of its shard",
    )
    parts: tuple[_Sha256, ...] = Field(
        min_length=1, max_length=1000, description="Digests of how its maps were made: those of the commit's `parts`"
    )

    def is_in(self, commit: Commit) -> bool:
        """Tell whether what was seen is what a commit speaks of; parts may have been added since."""
        there = {part.digest for part in commit.parts.values()}
        return self.row in commit.rows and there.issuperset(self.parts)


class Region(_Stated):
    """A region on the network's grid, as runs over its places in row-major order."""

    shape: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        min_length=1, max_length=3, description="Sides of the grid, as the last axes of the store's `attribution`"
    )
    runs: tuple[tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=1)]], ...] = Field(
        description="First place and length of each run, ascending, and apart; none: there is no finding"
    )

    @model_validator(mode="after")
    def _ordered_and_inside(self) -> Self:
        end = 0
        for start, length in self.runs:
            if start < end:
                raise ValueError("runs of a region are ascending, and do not overlap")
            end = start + length
        if end > int(np.prod(self.shape, dtype=object)):
            raise ValueError(f"a region's runs end at {end}, beyond its {' x '.join(map(str, self.shape))} places")
        return self

    @property
    def mask(self) -> NDArray[np.bool_]:
        """The region as ``([z,] y, x)`` bool."""
        places = np.zeros(self.shape, bool)
        for start, length in self.runs:
            places.ravel()[start : start + length] = True
        return places

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "Region":
        """Describe a mask ``([z,] y, x)``."""
        edges = np.flatnonzero(np.diff(mask.ravel().astype(np.int8), prepend=0, append=0))
        starts, ends = edges[::2].tolist(), edges[1::2].tolist()
        return cls(shape=mask.shape, runs=tuple((start, end - start) for start, end in zip(starts, ends, strict=True)))


class Rating(_Stated):
    """A rater's opinion of one image. All but the first six fields may be left out."""

    version: Literal[1] = Field(description="Version of the format")
    id: str = Field(pattern="^[0-9a-f]{32}$", description="Random name of the rating, 128 bits in hexadecimal")
    image_id: str = Field(min_length=1, max_length=1000, description="The image, by its id in the store")
    seen: Seen = Field(description="Digests of what the rater was shown")
    rater: Annotated[str, StringConstraints(strip_whitespace=True)] = Field(
        max_length=100, description="Pseudonym of the rater; empty where none was given: set apart, and in no number"
    )
    time: _Time = Field(description="When it was given, with the offset to UTC")
    target: _Name | None = Field(None, description="Explained output whose maps were shown, of the store's `target`")
    prediction: Verdict | None = Field(None, description="Whether the rater agrees with the prediction")
    explanation: Verdict | None = Field(None, description="Whether the rater agrees with what the maps show")
    shown: tuple[_Name, ...] = Field((), max_length=100, description="Explainers whose maps were shown")
    helps: tuple[_Name, ...] | None = Field(
        None, max_length=100, description="Those of `shown` that help, the best first; [] if none does, null: not said"
    )
    region: Region | None = Field(None, description="The finding, as the rater draws or corrects it")
    confidence: float | None = Field(None, ge=0, le=1, description="How sure the rater is, from 0 to 1")
    comment: str = Field("", max_length=4000, repr=False, description="Free text; in no log, nor in the report")

    @model_validator(mode="after")
    def _helps_among_shown(self) -> Self:
        helps = self.helps or ()
        for name, given in (("shown", self.shown), ("helps", helps)):
            if len({*given}) < len(given):
                raise ValueError(f"{name} names an explainer twice")
        if not {*helps} <= {*self.shown}:
            raise ValueError("helps names explainers that were not shown")
        return self

    @property
    def key(self) -> str:
        """Its path below the output."""
        return f"{folder_of(self.image_id)}/{self.id}.json"

    def encode(self) -> bytes:
        return self.model_dump_json().encode()

    def save(self, output: Location) -> bool:
        """Write it beside the store, and tell whether it is there: another of its id is never written over."""
        data, place = self.encode(), output / self.key
        return place.create(data) or place.read() == data


def folder_of(image_id: str) -> str:
    """Name the folder of an image's ratings: its id, with all but letters, digits, ``_``, ``-`` and ``~`` escaped."""
    return f"{FOLDER}/{quote(image_id, safe='').replace('.', '%2E')}"


def folders_of(image_ids: Iterable[str]) -> set[str]:
    """Name the folders of the ratings of some images."""
    return {folder_of(id) for id in image_ids}
