"""Images that were left out, by the reason."""

from collections.abc import Sequence
from dataclasses import dataclass

from tasks.cohort.entry import Entry


@dataclass(frozen=True)
class Reason:
    """A reason for which images were left out, and these images, as the manifest has them."""

    text: str
    formats: str
    ids: list[str]


def reasons(entries: Sequence[Entry]) -> list[Reason]:
    """Group what was left out by the reason, the most frequent first."""
    found: dict[str, list[Entry]] = {}
    for entry in entries:
        if entry.reason:
            found.setdefault(entry.reason, []).append(entry)
    return [
        Reason(text, ", ".join(sorted({entry.format or "unknown" for entry in alike})), [entry.id for entry in alike])
        for text, alike in sorted(found.items(), key=lambda item: -len(item[1]))
    ]
