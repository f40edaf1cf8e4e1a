"""Expressions of a bundle's configuration that are made of values alone, worked out without evaluating any code."""

import ast
import math
import re
from collections.abc import Callable
from typing import Any

_REFERENCE = re.compile(r"@(\w+(?:(?:::|#)\w+)*)", re.ASCII)
_STAND_IN = re.compile(r" _\d+_ ")
"""A name that stands for a reference while an expression is parsed."""

_LONGEST = 10_000
"""Characters of an expression, or items of what it makes."""

LookUp = Callable[[str], Any]


def value_of(text: str, look_up: LookUp) -> Any:
    """Work out an expression of literals, lists, references, sums and choices (``a if b else c``).

    Parameters
    ----------
    text
        The expression, without its ``$``.
    look_up
        A function from the place that a reference names to its value.

    Raises
    ------
    ValueError
        If there is anything else in it, such as a call or an attribute.
    """
    if len(text) > _LONGEST:
        raise ValueError("too long")
    places: list[str] = []

    def note(found: re.Match[str]) -> str:
        places.append(found[1])
        return f" _{len(places) - 1}_ "

    try:
        tree = ast.parse(_REFERENCE.sub(note, text).strip(), mode="eval").body
        return _value(tree, {f"_{number}_": place for number, place in enumerate(places)}, look_up)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError("no expression") from error


def _value(node: ast.AST, places: dict[str, str], look_up: LookUp) -> Any:
    def inner(part: ast.AST) -> Any:
        return _value(part, places, look_up)

    found: Any
    match node:
        case ast.Constant(value=None | bool() | int() | float() | str() as found):
            _check_constant(found)
        case ast.List(elts=parts) | ast.Tuple(elts=parts):
            found = [inner(part) for part in parts]
        case ast.Dict(keys=keys, values=values):
            found = {_text(inner(key) if key else None): inner(value) for key, value in zip(keys, values, strict=True)}
        case ast.Name(id=name) if name in places:
            found = look_up(places[name])
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            found = -_number(inner(operand))
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            found = _sum(inner(left), inner(right))
        case ast.IfExp(test=test, body=body, orelse=other):
            found = inner(body if _truth(inner(test)) else other)
        case _:
            raise ValueError(f"{type(node).__name__} in an expression")
    return found


def _sum(left: Any, right: Any) -> Any:
    if not isinstance(left, list | str):
        return _number(left) + _number(right)
    if type(left) is not type(right) or len(left) + len(right) > _LONGEST:
        raise ValueError("a sum of unlike things, or too long a one")
    return [*left, *right] if isinstance(left, list) else f"{left}{right}"


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("no number")
    return value


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError("a key that is no text")
    return value


def _truth(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("a choice by what is neither true nor false")
    return value


def _check_constant(value: Any) -> None:
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError("no finite number")
    if isinstance(value, str) and _STAND_IN.search(value):
        raise ValueError("a reference within a text")
