"""Read a datalist: JSON that lists images, as MONAI's programs and the Medical Segmentation Decathlon write it."""

import json
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

SEPARATOR = "|"
"""Between the texts of a list, as between the files in a cell of a table."""

_SECTIONS = ("training", "validation", "test", "testing")

Record = tuple[int, Sequence[str | None]]
"""A row's number, and its cells."""


class Unusable(Exception):
    """A table cannot be used, for the reason that the message says; the message begins where its name ends."""


def read_datalist(
    data: bytes, section: str, image: str, reads: Callable[[str], bool]
) -> tuple[list[str], Iterator[Record]]:
    """Read the items of a list as the rows of a table, whose columns are the keys.

    Parameters
    ----------
    data
        A list of items, or an object with such lists. An item is an object, or the name of a file alone.
    section
        The key of the list that is meant; empty: the only list.
    image
        The key that an item has which is the name of a file alone.
    reads
        Tells of a key whether its values are looked at; others may be anything.

    Returns
    -------
    tuple
        The keys that are looked at, and the rows, counted from 1.

    Raises
    ------
    Unusable
        If it is no such file, or holds several lists and none is named.
    """
    items = [{image: item} if isinstance(item, str) else item for item in _items(_parsed(data), section)]
    for number, item in enumerate(items, 1):
        if not isinstance(item, dict):
            raise Unusable(f"holds neither an object nor the name of a file in row {number}")
    names = list(filter(reads, dict.fromkeys(key for item in items for key in item)))
    return names, ((n, [_text(item.get(name), n) for name in names]) for n, item in enumerate(items, 1))


def _parsed(data: bytes) -> Any:
    def once_each(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        if len({key for key, _ in pairs}) < len(pairs):
            raise Unusable("has an object that names a key twice")
        return dict(pairs)

    return json.loads(data, object_pairs_hook=once_each)


def _items(parsed: Any, section: str) -> list[Any]:
    if isinstance(parsed, list):
        if section:
            raise Unusable("is one list, without sections: leave cohort.section out")
        return parsed
    if not isinstance(parsed, dict):
        raise Unusable("is neither a list of images nor an object that holds such lists")
    lists = {key: value for key, value in parsed.items() if isinstance(value, list) and value}
    found = parsed.get(section) if section else next(iter(lists.values())) if len(lists) == 1 else None
    if isinstance(found, list):
        return found
    known = [f"{key} ({len(lists[key])})" for key in _SECTIONS if key in lists]
    raise Unusable(
        f"holds {len(lists)} lists"
        + (f", of them {', '.join(known)}" if known else "")
        + (f", and none that is called {section!r}" if section else "")
        + ": say which is meant by cohort.section"
    )


def _text(value: Any, number: int) -> str | None:
    """Write a value as JSON does, and a list as its texts with bars between them."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if isinstance(value, list) and all(isinstance(one, str) and SEPARATOR not in one for one in value):
        return SEPARATOR.join(value)
    if isinstance(value, (list, dict)):
        raise Unusable(f"holds in row {number}, where a text, a number or a list of texts is needed, something else")
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value if isinstance(value, str) else json.dumps(value)
