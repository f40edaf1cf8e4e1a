"""Objects named in a configuration, in MONAI's ``{_target_: dotted.name, argument: value}`` form."""

import importlib
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import AfterValidator, JsonValue

from models.errors import ConfigurationError


def _names_a_target(value: dict[str, JsonValue]) -> dict[str, JsonValue]:
    target = value.get("_target_")
    if not isinstance(target, str) or "." not in target:
        raise ConfigurationError(f"needs `_target_: package.Class`, found {target!r}")
    return value


Component = Annotated[dict[str, JsonValue], AfterValidator(_names_a_target)]


def locate(component: Mapping[str, Any], namespaces: tuple[str, ...]) -> Any:
    """Import what `component` names, if it lies in one of `namespaces` and was made there.

    Raises
    ------
    ConfigurationError
        If the name lies elsewhere or there is nothing of that name.
    """
    target = str(component["_target_"])
    home, _, name = target.rpartition(".")
    if not any(home == allowed or home.startswith(allowed + ".") for allowed in namespaces):
        raise ConfigurationError(f"`_target_: {target}` is not allowed here: it must lie in {' or '.join(namespaces)}")
    try:
        located = getattr(importlib.import_module(home), name)
    except (ImportError, AttributeError) as error:
        raise ConfigurationError(f"`_target_: {target}` cannot be imported: {error}") from error
    made = getattr(located, "__module__", None) or ""
    if not any(made == allowed or made.startswith(allowed + ".") for allowed in namespaces):
        raise ConfigurationError(
            f"`_target_: {target}` is not allowed here: it was only imported there, from {made or 'elsewhere'}"
        )
    return located


def instantiate(component: Mapping[str, Any], located: Any) -> Any:
    """Call `located` with the component's arguments.

    Raises
    ------
    ConfigurationError
        If the arguments do not fit, with the message of the call.
    """
    arguments = {name: value for name, value in component.items() if name != "_target_"}
    try:
        return located(**arguments)
    except (TypeError, ValueError, AssertionError, NotImplementedError) as error:
        raise ConfigurationError(f"`_target_: {component['_target_']}` with {arguments}: {error}") from error
