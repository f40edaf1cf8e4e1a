"""Objects named in a configuration, in MONAI's ``{_target_: dotted.name, argument: value}`` form.

A configuration may come from anybody: it names classes and gives them numbers and words, and runs no code of its own,
fetches nothing and opens no file.
"""

import importlib
import importlib.metadata
import inspect
import os
import re
import typing
from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, JsonValue

from models.errors import ConfigurationError

_NAME = re.compile(r"[A-Za-z]\w*(\.[A-Za-z]\w*)+", re.ASCII)
"""A dotted name, none of whose parts is private."""

_TYPE = re.compile(r"(torch|numpy|np)\.(bool|b?float|half|double|u?int|long|short)\w*")

_FETCHES = re.compile(r"pretrain|^weights(_|$)|url$|filename|repo_id|download")
"""Names of arguments by which networks fetch weights."""


def _names_a_target(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    target = value.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigurationError(f"needs `_target_: package.Class`, found {target!r}")
    return value


Component = Annotated[dict[str, JsonValue], AfterValidator(_names_a_target)]


VARIABLES = {"cohortlens.networks": "COHORTLENS_NETWORKS", "cohortlens.transforms": "COHORTLENS_TRANSFORMS"}
"""By group of entry points, the variable of the environment that names packages, too."""


def allowed_packages(group: str) -> tuple[str, ...]:
    """Name the packages that this machine's operator allows beside our own; no configuration can.

    They are the values of the entry points of `group`, and what its variable of the environment names, with commas
    between them.
    """
    told = os.environ.get(VARIABLES[group], "")
    points = importlib.metadata.entry_points(group=group)
    return (*(point.value for point in points), *(name.strip() for name in told.split(",") if name.strip()))


def locate(
    component: Mapping[str, Any], namespaces: tuple[str, ...], base: type = object, field: str = "", group: str = ""
) -> Any:
    """Import the class that `component` names, if it lies in one of `namespaces` and was made there.

    A function that says to return a class of its own module, as torchvision's builders do, stands for that class.

    Parameters
    ----------
    base
        The class that it must derive from.
    field
        The field of the configuration, for messages.
    group
        The group of `allowed_packages` that may hold it, too.

    Raises
    ------
    ConfigurationError
        If the name lies elsewhere or is private, there is nothing of that name, or it is no such class.
    """
    target, named = str(component["_target_"]), _named(component, field)
    home, _, name = target.rpartition(".")
    namespaces += allowed_packages(group) if group else ()
    allowed = " or ".join(namespaces)
    others = f", or in a package that {VARIABLES[group]} names on this machine" if group else ""
    if not _lies_in(home, namespaces):
        raise ConfigurationError(f"{named} is not allowed here: it must lie in {allowed}{others}")
    if not _NAME.fullmatch(target):
        raise ConfigurationError(f"{named} is not allowed here: it is no public name; name a class of {allowed}")
    try:
        located = getattr(importlib.import_module(home), name)
    except Exception as error:  # a module may raise anything while it is imported
        raise ConfigurationError(f"{named} cannot be imported: {error}") from error
    made = str(getattr(located, "__module__", None) or "")
    if not _lies_in(made, namespaces):
        raise ConfigurationError(
            f"{named} is not allowed here: it was only imported there, from {made or 'elsewhere'}; name a class of "
            f"{allowed}"
        )
    made_class = located if isinstance(located, type) else _returned(located)
    if made_class is None or not issubclass(made_class, base):
        kind = {"Module": "torch module"}.get(base.__name__, base.__name__.lower())
        raise ConfigurationError(
            f"{named} is not a {'class' if base is object else kind}: name a class that is, of {allowed}"
        )
    return located


def instantiate(component: Mapping[str, Any], located: Any, field: str = "") -> Any:
    """Call `located` with the component's arguments, none of which may name code, a file, a host, or weights to fetch.

    Raises
    ------
    ConfigurationError
        With the argument, before the call; or with whatever the call raises.
    """
    _check_arguments(component, located, field)
    return call(component, located, field)


def _check_arguments(component: Mapping[str, Any], located: Any, field: str) -> None:
    named = _named(component, field)
    for name, value in _arguments(component).items():
        for inner in _scalars(value):
            if what := _leads_elsewhere(inner):
                raise ConfigurationError(
                    f"{named} with {name}: {inner!r} is not allowed: that is {what}, and arguments are numbers and "
                    "words only"
                )
    for name, value in (_defaults(located) | _arguments(component)).items():
        if value and _FETCHES.search(name):
            raise ConfigurationError(
                f"{named} with {name}: {value!r} is not allowed: it fetches weights. Set `{name}: "
                f"{'false' if value is True else 'null'}`, and name the file in `model.weights`"
            )


def call(component: Mapping[str, Any], located: Any, field: str = "") -> Any:
    """Call `located` with arguments that were checked elsewhere.

    Raises
    ------
    ConfigurationError
        If it raises anything, with its message.
    """
    arguments = _arguments(component)
    try:
        return located(**arguments)
    except Exception as error:  # a constructor may raise anything on arguments that it was not made for
        said = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        raise ConfigurationError(
            f"{_named(component, field)} with {arguments}: {said}. See to its arguments"
        ) from error


def _named(component: Mapping[str, Any], field: str) -> str:
    target = f"`_target_: {component['_target_']}`"
    return f"{field}: {target}" if field else target


def _arguments(component: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in component.items() if name != "_target_"}


def _defaults(located: Any) -> dict[str, Any]:
    try:
        parameters = inspect.signature(located).parameters.values()
    except (TypeError, ValueError):  # of C code
        return {}
    return {one.name: one.default for one in parameters if one.default is not one.empty}


def _lies_in(name: str, namespaces: tuple[str, ...]) -> bool:
    return any(name == allowed or name.startswith(allowed + ".") for allowed in namespaces)


def _returned(located: Any) -> type | None:
    """The class that a function says to return, if it is made beside it."""
    if not inspect.isfunction(located):
        return None
    try:
        returned = typing.get_type_hints(located).get("return")
    except Exception:  # hints are expressions, and may name what is not installed
        return None
    return returned if isinstance(returned, type) and returned.__module__ == located.__module__ else None


def _scalars(value: Any) -> Iterator[Any]:
    """All that is in an argument, keys too."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield key
            yield from _scalars(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _scalars(inner)
    else:
        yield value


def _leads_elsewhere(value: Any) -> str:
    if not isinstance(value, str):
        return ""
    if value.startswith("_"):
        return "a component, or a setting of one, within another"
    if value.startswith(("$", "@", "%")):
        return "an expression"
    if "/" in value or "\\" in value or value.startswith("~"):
        return "a path or a URL"
    return "a dotted name" if _NAME.fullmatch(value) and not _TYPE.fullmatch(value) else ""
