"""References, macros and expressions in a bundle's configuration, followed without evaluating anything."""

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from models.bundles.expressions import value_of
from models.errors import ConfigurationError

_DEEPEST = 64
_MOST_VALUES = 20_000

_REFERENCE = re.compile(r"[@%]\w+((::|#)\w+)*", re.ASCII)
_ALONE = re.compile(r"\$\s*(@\w+(?:(?:::|#)\w+)*)(?:\.to\(\s*@device\s*\))?\s*", re.ASCII)
"""An expression that is a reference and nothing else, or a network on the bundle's device, which is the network."""

_TYPE = re.compile(r"\$\s*(?:torch|numpy|np)\.((?:float|int|uint)\d+)\s*", re.ASCII)
_KEY = re.compile(r"\$\s*(?:monai\.utils\.)?CommonKeys\.(IMAGE|LABEL|PRED)\s*", re.ASCII)


class Found(NamedTuple):
    """A value of the configuration.

    Attributes
    ----------
    value
        Its references are followed at the top alone.
    place
        Keys and numbers on the way to the value, with `::` between them.
    through
        The places of the references that were followed to get there.
    """

    value: Any
    place: str
    through: tuple[str, ...] = ()

    def refused(self, problem: str) -> ConfigurationError:
        shown = f" (found {self.value!r:.80})" if isinstance(self.value, str | int | float) else ""
        return ConfigurationError(f"model.bundle: the configuration's {self.place}: {problem}{shown}")


class References:
    """The content of a configuration, with its references.

    Parameters
    ----------
    content
        Plain values, as they stand in the file.
    """

    def __init__(self, content: Mapping[str, Any]) -> None:
        self._content = content
        self._left = _MOST_VALUES

    def get(self, *names: str) -> Found | None:
        """Find the first of several keys of the configuration that it has.

        Raises
        ------
        ConfigurationError
            As `follow` does.
        """
        name = next((name for name in names if self._content.get(name) is not None), None)
        return None if name is None else self.follow(Found(self._content[name], name, (name,)))

    def inner(self, found: Found, name: str | int) -> Found:
        """Find what is within a mapping or a list, and follow it."""
        return self.follow(Found(found.value[name], f"{found.place}::{name}", found.through))

    def follow(self, found: Found) -> Found:
        """Follow a text that is a reference, and work out an expression that is made of values.

        Raises
        ------
        ConfigurationError
            If there is nothing of that name, the reference leads to another file or back to itself, or the expression
            is more than values.
        """
        while isinstance(found.value, str) and found.value[:1] in ("@", "%", "$"):
            if found.value.startswith("$"):
                if alone := _ALONE.fullmatch(found.value):
                    found = found._replace(value=alone[1])
                    continue
                return found._replace(value=self._worked_out(found))
            found = self._referred(found)
        return found

    def _worked_out(self, found: Found) -> Any:
        """Work out an expression: values, the name of a type of numbers, or one of MONAI's usual keys."""
        text: str = found.value
        if named := _TYPE.fullmatch(text):
            return named[1]
        if named := _KEY.fullmatch(text):
            return named[1].lower()
        try:
            return value_of(text[1:].strip(), lambda place: self.whole(found._replace(value=f"@{place}")))
        except ValueError as error:
            if isinstance(error, ConfigurationError):
                raise
            raise found.refused(
                "the expression is code, which is not evaluated: write its value, or state the field in cohort or model"
            ) from None

    def whole(self, found: Found, depth: int = 0) -> Any:
        """Take a value with everything in it, all references followed.

        Raises
        ------
        ConfigurationError
            As `follow` does, and if it is deeper or larger than any configuration needs.
        """
        found, self._left = self.follow(found), self._left - 1
        if depth > _DEEPEST or self._left < 0:
            raise found.refused(f"more than {_DEEPEST} levels or {_MOST_VALUES} values, references followed")
        if isinstance(found.value, Mapping):
            return {name: self.whole(self._raw(found, name), depth + 1) for name in found.value}
        if isinstance(found.value, list):
            return [self.whole(self._raw(found, number), depth + 1) for number in range(len(found.value))]
        return found.value

    def _raw(self, found: Found, name: str | int) -> Found:
        return Found(found.value[name], f"{found.place}::{name}", found.through)

    def _referred(self, found: Found) -> Found:
        if not _REFERENCE.fullmatch(found.value):
            raise found.refused(
                "the reference is relative, or leads to another file: copy what it stands for to its place"
            )
        place = found.value[1:].replace("#", "::")
        if place in found.through:
            raise found.refused("the reference leads back to itself")
        if len(found.through) > _DEEPEST:
            raise found.refused(f"more than {_DEEPEST} references, one after the other")
        value: Any = self._content
        for part in place.split("::"):
            if isinstance(value, Mapping) and part in value:
                value = value[part]
            elif isinstance(value, list) and part.isdecimal() and int(part) < len(value):
                value = value[int(part)]
            else:
                raise found.refused("there is nothing that the reference could mean")
        return Found(value, place, (*found.through, place))
