"""The recipe of a run in words: each thing by its name, with its parameters."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel

from tasks.plan.plan import Plan
from tasks.storage.location import Location

_NAMES = ("_target_", "name")


def recipe_in_words(plan: Plan) -> Iterator[tuple[str, list[str]]]:
    """Say what decided the bytes of a run: the name of each part, and a line for each thing in it."""
    parts: dict[str, Sequence[Any]] = {
        "network": [plan.model.network],
        "explainers": plan.explainers,
        "target": [plan.target],
        "preprocessing": plan.cohort.preprocessing,
        "record": plan.cohort.record,
        "metrics": [planned.metric for planned in plan.metrics],
        "uncertainty": [planned.uncertainty for planned in plan.uncertainty],
        "results": [planned.result for planned in plan.results],
        "versions": [plan.versions],
    }
    for name, things in parts.items():
        if things:
            yield name, [in_words(thing) for thing in things]


def in_words(value: Any) -> str:
    """Say a value in words: the name of what has parameters comes first; what is not set, or where a file lies, is not
    said.
    """
    if value is None or isinstance(value, Location):
        return ""
    if isinstance(value, BaseModel | Mapping):
        fields = dict(value)
        title = next((str(fields[key]) for key in _NAMES if key in fields), "")
        parts = [f"{str(key).replace('_', ' ')} {_inner(one)}" for key, one in fields.items() if _is_said(key, one)]
        return ": ".join(part for part in (title, ", ".join(parts)) if part)
    if isinstance(value, Sequence) and not isinstance(value, str):
        return " / ".join(text for text in map(in_words, value) if text)
    return ("no", "yes")[value] if isinstance(value, bool) else str(value)


def _is_said(key: Any, value: Any) -> bool:
    return key not in _NAMES and bool(in_words(value))


def _inner(value: Any) -> str:
    return f"({in_words(value)})" if isinstance(value, BaseModel | Mapping) else in_words(value)
