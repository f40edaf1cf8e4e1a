"""The columns of a cohort table, by the names that they have there."""

import unicodedata
from collections.abc import Sequence
from typing import Annotated, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from models.errors import ConfigurationError
from tasks.cohort.datalist import Unusable

FIELDS = ("id", "label", "mask", "subject")

Name = Annotated[str, Field(min_length=1)]


class Columns(BaseModel):
    """Names of a table's columns, or of a datalist's keys; what is not stated goes by its own name.

    Attributes
    ----------
    uri
        The column of an image's file; or one for each of its files. In a datalist it is `image`, if nothing is stated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    uri: Name | Annotated[tuple[Name, ...], Field(strict=False, min_length=1)] | None = None
    id: Name | None = None
    label: Name | None = None
    mask: Name | None = None
    subject: Name | None = None

    @model_validator(mode="after")
    def _each_is_one_thing(self) -> Self:
        names = [folded(name) for name in (*self.uris, *self.named.values())]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigurationError(f"columns: {', '.join(twice)} is named twice: a column is one thing")
        return self

    @property
    def uris(self) -> tuple[str, ...]:
        """The columns of files that are stated."""
        return () if self.uri is None else (self.uri,) if isinstance(self.uri, str) else self.uri

    @property
    def named(self) -> dict[str, str]:
        """The other columns that are stated, by what they hold."""
        return {field: name for field in FIELDS if (name := getattr(self, field)) is not None}

    def by_sequence(self, sequences: Sequence[str]) -> "Columns":
        """Put the columns of files into the order of sequences, if they have their names."""
        places = {folded(name): place for place, name in enumerate(sequences)}
        if len(self.uris) < 2 or {*map(folded, self.uris)} != {*places}:
            return self
        return self.model_copy(update={"uri": tuple(sorted(self.uris, key=lambda name: places[folded(name)]))})


class Wanted(NamedTuple):
    """The columns that are looked for.

    Attributes
    ----------
    uris
        The columns of files.
    others
        The other columns, by what they hold.
    stated
        The columns that have to be there, with the fields of the configuration that say so.
    exclusive
        Whether no other columns may be there.
    in_datalist
        Whether columns are the keys of a datalist, where `label` may be a class or the path of a mask.
    record
        The columns that a record is made of, in its order.
    measures, covariates
        The columns of measures, and of covariates, in their order.
    """

    uris: tuple[str, ...]
    others: dict[str, str]
    stated: dict[str, str]
    exclusive: bool
    in_datalist: bool
    record: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    covariates: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        columns: Columns | None,
        *,
        in_datalist: bool,
        record: tuple[str, ...] = (),
        measures: tuple[str, ...] = (),
        covariates: tuple[str, ...] = (),
    ) -> "Wanted":
        """Take what is stated, and else a column by its own name, which in a datalist is not said of `label`."""
        asked = columns or Columns()
        uris = asked.uris or (("image",) if in_datalist else ("uri",))
        taken = {folded(name) for name in (*uris, *asked.named.values())} | ({"label"} if in_datalist else set())
        own = {field: field for field in FIELDS if field not in asked.named and field not in taken}
        stated = {name: "cohort.columns.uri" for name in asked.uris}
        stated |= {name: f"cohort.columns.{field}" for field, name in asked.named.items()}
        stated |= dict.fromkeys(measures, "cohort.measures") | dict.fromkeys(covariates, "cohort.covariates")
        stated |= dict.fromkeys(record, "cohort.record")
        return cls(uris, asked.named | own, stated, columns is None, in_datalist, record, measures, covariates)

    @property
    def known(self) -> set[str]:
        """The columns that are looked for, folded."""
        named = (*self.uris, *self.others.values(), *self.record, *self.measures, *self.covariates)
        return {*map(folded, named)}

    def reads(self, name: str) -> bool:
        """Tell whether what a column holds is looked at."""
        return self.exclusive or folded(name) in self.known

    def places(self, names: Sequence[str], read_as: str) -> "Places":
        """Find the place of each column by its name, whatever its case and the blanks around it.

        Raises
        ------
        Unusable
            If one is missing, is there twice, or is not known where all have to be.
        """
        plain = [folded(name) for name in names]
        needed = {name: self.stated.get(name) for name in (*self.uris, *self.stated)}
        wrong = [
            f"no column `{name}`" + (f" ({field})" if field else "")
            for name, field in needed.items()
            if folded(name) not in plain
        ]
        unknown = [str(place) for place, name in enumerate(plain, 1) if name and name not in self.known]
        if unknown := unknown if self.exclusive else []:
            wrong.append(f"columns that are not known (counted from the left: {', '.join(unknown)})")
        wrong += [f"the column `{name}` twice" for name in sorted(self.known) if plain.count(name) > 1]
        if wrong:
            raise Unusable(f"has {' and '.join(wrong)}: {self._ways_on(plain, bool(unknown))}{read_as}")
        others = {field: plain.index(folded(name)) for field, name in self.others.items() if folded(name) in plain}
        named = frozenset(place for place, name in enumerate(plain) if name)
        groups = (self.uris, self.record, self.measures, self.covariates)
        uris, *beside = (tuple(plain.index(folded(name)) for name in group) for group in groups)
        return Places(uris, others, named, *beside)

    def _ways_on(self, names: Sequence[str], has_unknown: bool) -> str:
        if self.in_datalist and has_unknown and "label" in names:
            return (
                "one of them is `label`, which may be a class or the path of a mask: say which by cohort.columns: "
                "{label: label} or {mask: label}, with which others may be there"
            )
        if self.in_datalist:
            return "each item needs `image`, or the key that cohort.columns.uri names, with which others may be there"
        return (
            "its first line must name the columns; `uri` is needed, `id`, `label`, `mask` and `subject` are allowed; "
            "cohort.columns says which columns are these where they are called otherwise, and then others may be there"
        )


class Places(NamedTuple):
    """Places of columns: of files, of the others by what they hold, of all with a name, and of those beside these."""

    uris: tuple[int, ...]
    others: dict[str, int]
    named: frozenset[int]
    record: tuple[int, ...] = ()
    measures: tuple[int, ...] = ()
    covariates: tuple[int, ...] = ()


def folded(name: str) -> str:
    """Make of a column's name what is compared: it may be in any case, accents apart or not, with blanks around it."""
    return unicodedata.normalize("NFC", name.strip("\ufeff \t").strip().lower())
