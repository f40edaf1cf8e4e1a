"""YAML 1.2 as configurations are written in it: one document, of bounded size, whose keys are names that come once."""

import math
from collections.abc import Callable
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.constructor import SafeConstructor
from ruamel.yaml.error import MarkedYAMLError, StringMark, YAMLError
from ruamel.yaml.events import CollectionEndEvent, CollectionStartEvent
from ruamel.yaml.nodes import MappingNode, Node, ScalarNode, SequenceNode
from ruamel.yaml.reader import ReaderError

from models.errors import ConfigurationError

_LARGEST = 2**20
_DEEPEST = 32
_MOST_VALUES = 20_000
_DIGITS = 19
"""The digits that every whole number of 64 bits fits in."""

_TAG = "tag:yaml.org,2002:"


def read_yaml(data: bytes, name: str) -> Any:
    """Read the content of a file.

    Parameters
    ----------
    data
        The file: UTF-8, or UTF-16 that says so.
    name
        What messages call it.

    Raises
    ------
    ConfigurationError
        With line, column and remedy, if it is in another encoding, no YAML, larger than any configuration (1 MiB, 32
        levels, 20,000 values with those of aliases wherever they stand, numbers beyond 64 bits), or holds what only
        other programs understand: tags, keys that are no names or come twice, several documents.
    """
    try:
        text = _decode(data)
        yaml = YAML(typ="safe", pure=True)
        yaml.Constructor = _Constructor
        _check_size(yaml, text)
        root = yaml.compose(text)
        if root is not None:
            _check_values(root, {})
        return yaml.load(text)
    except _Refused as error:
        raise ConfigurationError(f"{name}{error}") from None
    except ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise ConfigurationError(
            f"{name}, line {line}: the character U+{error.character:04X} has no place in a text: delete it"
        ) from None
    except MarkedYAMLError as error:
        raise ConfigurationError(f"{name}{_explained(error)}") from None
    except YAMLError as error:
        raise ConfigurationError(f"{name} is not YAML ({type(error).__name__})") from None


class _Refused(Exception):
    """YAML that a configuration does not hold; the message begins where the name of the file ends."""


def _at(mark: StringMark, problem: str) -> _Refused:
    return _Refused(f", line {mark.line + 1}, column {mark.column + 1}: {problem}")


class _Constructor(SafeConstructor):
    """The core schema of YAML 1.2, in which dates are text, with numbers that every machine has."""

    def whole(self, node: ScalarNode) -> int:
        if len(node.value.lstrip("+-").replace("_", "").lstrip("0")) > _DIGITS:
            raise _at(
                node.start_mark, f"a whole number of more than {_DIGITS} digits: put it in quotes if it is a text"
            )
        return int(self._number(node, super().construct_yaml_int))

    def decimal(self, node: ScalarNode) -> float:
        value = float(self._number(node, super().construct_yaml_float))
        if not math.isfinite(value):
            raise _at(node.start_mark, f"{node.value:.40} is no finite number: name one that is")
        return value

    def _number(self, node: ScalarNode, construct: Callable[[Any], Any]) -> Any:
        try:
            return construct(node)
        except ValueError:
            raise _at(node.start_mark, f"{node.value:.40} is no number") from None


_Constructor.yaml_constructors = {
    **{
        f"{_TAG}{kind}": SafeConstructor.yaml_constructors[f"{_TAG}{kind}"]
        for kind in ("null", "bool", "str", "seq", "map")
    },
    f"{_TAG}int": _Constructor.whole,
    f"{_TAG}float": _Constructor.decimal,
    f"{_TAG}timestamp": SafeConstructor.construct_yaml_str,
    f"{_TAG}value": SafeConstructor.construct_yaml_str,
    None: SafeConstructor.construct_undefined,
}


def _decode(data: bytes) -> str:
    if len(data) > _LARGEST:
        raise _Refused(f" has more than {_LARGEST // 2**20} MiB, which no configuration needs")
    encoding = "utf-16" if data[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode(encoding, "replace")
        raise _Refused(
            f", line {before.count(chr(10)) + 1}, column {len(before) - before.rfind(chr(10))}: the byte "
            f"0x{data[error.start]:02x} is not {encoding.upper()}, so the file is in another encoding, such as cp1252 "
            "(which editors call ANSI): save it as UTF-8"
        ) from None


def _check_size(yaml: YAML, text: str) -> None:
    """Look at the file as it comes, before anything is built of it."""
    depth = 0
    for number, event in enumerate(yaml.parse(text)):
        depth += isinstance(event, CollectionStartEvent) - isinstance(event, CollectionEndEvent)
        if depth > _DEEPEST:
            raise _at(event.start_mark, f"more than {_DEEPEST} levels, which no configuration needs")
        if number > 3 * _MOST_VALUES:  # a value has its own event, and perhaps that of its key, or of its end
            raise _at(event.start_mark, f"more than {_MOST_VALUES} values, which no configuration needs")


def _check_values(node: Node, counted: dict[int, int]) -> int:
    """Check a value with all that it holds; count the values."""
    if (count := counted.get(id(node))) == 0:
        raise _at(node.start_mark, "a value that is a part of itself: write it without the alias")
    if count is not None:
        return count
    counted[id(node)] = 0  # until all that it holds is counted
    count = 1
    if isinstance(node, MappingNode):
        _check_keys(node)
        count += sum(_check_values(value, counted) for _, value in node.value)
    elif isinstance(node, SequenceNode):
        count += sum(_check_values(item, counted) for item in node.value)
    if count > _MOST_VALUES:
        raise _at(node.start_mark, f"more than {_MOST_VALUES} values, those of aliases counted wherever they stand")
    counted[id(node)] = count
    return count


def _check_keys(node: MappingNode) -> None:
    lines: dict[str, int] = {}
    for key, _ in node.value:
        if key.tag not in (f"{_TAG}str", f"{_TAG}merge"):
            raise _at(key.start_mark, "a key that is no name: put it in quotes if it is one")
        if key.value in lines:
            raise _at(key.start_mark, f"`{key.value:.40}` is in line {lines[key.value]} already: leave one of them out")
        lines[key.value] = key.start_mark.line + 1


def _explained(error: MarkedYAMLError) -> str:
    """Say where and what, without the library's advice."""
    mark = error.problem_mark or error.context_mark
    problem = (error.problem or error.context or "no YAML").partition("\n")[0]
    if "tag" in problem:
        problem = "a tag that is not known here: leave it out, or put the text in quotes"
    elif "another document" in problem:
        problem = "a second document begins: leave one in a file"
    elif r"'\t'" in problem:
        problem += ": indent by spaces"
    return f" is not YAML: {problem}" if mark is None else str(_at(mark, f"no YAML as it is read here: {problem}"))
