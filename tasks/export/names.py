"""Names of files, as BIDS has them: labels of letters and digits alone."""

import re
from collections.abc import Mapping, Sequence

_STEM, _LABEL = 64, 36
"""Characters of each, so that a name of all parts has no more than the 255 that a file system takes."""


def stem(id: str) -> str:
    """Make the beginning of the names of a case's files of its id."""
    return re.sub(r"[^A-Za-z0-9]+", "-", id).strip("-")[:_STEM] or "case"


def labels(names: Sequence[str]) -> list[str]:
    """Make labels of names, such as integratedGradients; different names have different labels.

    An empty name has an empty label.
    """
    found: dict[str, str] = {}
    for name in dict.fromkeys(names):
        first, *others = re.findall(r"[A-Za-z0-9]+", name) or ["x" * bool(name)]
        label = (first + "".join(word[0].upper() + word[1:] for word in others))[:_LABEL]
        taken, number = {each.lower() for each in found.values()}, 1
        while label and (numbered := label if number == 1 else f"{label}{number}").lower() in taken:
            number += 1
        found[name] = numbered if label else ""
    return [found[name] for name in names]


def named(entities: Mapping[str, Sequence[str]]) -> list[str]:
    """Join entities, in the order that BIDS gives them, with their labels: a name each, without what has no label."""
    rows = zip(*([f"{entity}-{label}" * bool(label) for label in of] for entity, of in entities.items()), strict=True)
    return ["_".join(filter(None, row)) for row in rows]
