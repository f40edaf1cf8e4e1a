"""Labels: the classes that they name."""

from collections.abc import Collection, Iterable, Sequence

SEPARATOR = "|"
"""Between the names of a label, where classes do not exclude each other, or a concept is named beside a class."""

NOTHING = ("none", "normal", "healthy", "negative", "no finding")
"""Labels which say that no class is there, in any case, where classes do not exclude each other."""


def without_concepts(labels: Iterable[str], concepts: Collection[str]) -> list[str]:
    """Leave the names of concepts out of labels, which is nothing of some: they say nothing of a class."""
    return [SEPARATOR.join(name for name in label.split(SEPARATOR) if name not in concepts) for label in labels]


def named(label: str, classes: Sequence[str], exclusive: bool) -> set[str] | None:
    """Read the classes that a label names; None where it does not tell, since it might be any.

    Where classes exclude each other, a label is the name of one. Else it is several names joined by ``|``, or one of
    `NOTHING`.
    """
    names = {label} if exclusive else set(label.split(SEPARATOR))
    if names <= set(classes):
        return names
    return set() if not exclusive and label.strip().lower() in NOTHING else None
