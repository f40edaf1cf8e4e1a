"""Components in a bundle's configuration: a class that is named, and settings that say whether it is made."""

from collections.abc import Mapping

from models.bundles.references import Found, References


def component(references: References, found: Found) -> str:
    """Take the name of the class that a component stands for.

    Raises
    ------
    ConfigurationError
        If it is no component, needs something else to be run before, or is not to be made in the ordinary way.
    """
    if not isinstance(found.value, Mapping) or "_target_" not in found.value:
        raise found.refused("a component was expected, `{_target_: Class, argument: value}`")
    target = references.inner(found, "_target_").value
    if not isinstance(target, str):
        raise found.refused("`_target_` is no name of a class")
    if found.value.get("_requires_"):
        raise found.refused("`_requires_` lets other things run before, and nothing is run: leave it out")
    if "_mode_" in found.value and references.inner(found, "_mode_").value != "default":
        raise found.refused("`_mode_` is not the default one: leave it out")
    return target


def is_disabled(references: References, found: Found) -> bool:
    """Tell whether a component is switched off."""
    if "_disabled_" not in found.value:
        return False
    value = references.inner(found, "_disabled_").value
    return value.strip().lower() == "true" if isinstance(value, str) else bool(value)
