"""Labels: which classes they name, and which of them name none."""

import difflib
from collections import Counter, defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from models.labels import named, without_concepts
from tasks.cohort.entry import Entry
from tasks.cohort.sources import Find

_ROWS_SHOWN = 10


@dataclass(frozen=True)
class Labels:
    """The labels of some images.

    Attributes
    ----------
    truth
        ``(image, class)`` bool; no True where the label is not known.
    known
        ``(image,)`` bool, whether a label is there and can be read.
    unread
        How many images have each label that names no class, the most frequent first; such a label is not known.
    """

    truth: NDArray[np.bool_]
    known: NDArray[np.bool_]
    unread: Mapping[str, int]


def read_labels(labels: Sequence[str], classes: Sequence[str], exclusive: bool) -> Labels:
    """Read labels, as `models.labels.named` does; empty where there is none."""
    read = [named(label, classes, exclusive) for label in labels]
    truth = np.array([[name in (names or ()) for name in classes] for names in read], bool)
    known = np.array([names is not None for names in read], bool)
    unread = Counter(label for label, is_known in zip(labels, known, strict=True) if label and not is_known)
    by_count = dict(sorted(unread.items(), key=lambda item: (-item[1], item[0])))
    return Labels(truth.reshape(len(labels), len(classes)), known, by_count)


@dataclass(frozen=True)
class UnreadLabel:
    """A label that names no class. Printed, it names rows and the nearest class, not itself: it may be of a patient.

    Attributes
    ----------
    images
        How many have it.
    rows
        Where it is in the cohort table, counted from 1 below the names of the columns.
    nearest
        The class that is spelt most like it; None if none is.
    """

    images: int
    rows: tuple[int, ...]
    nearest: str | None

    def __str__(self) -> str:
        rows = ", ".join(map(str, self.rows[:_ROWS_SHOWN])) + (", …" if len(self.rows) > _ROWS_SHOWN else "")
        images = "1 image has a label" if self.images == 1 else f"{self.images} images have a label"
        return (
            f"{images} that names no class, and count{'s' * (self.images == 1)} as unlabelled (in the table's row "
            f"{rows}" + (f"; the nearest class is {self.nearest!r})" if self.nearest else ")")
        )


def unread_labels(
    entries: Sequence[Entry], classes: Sequence[str], find: Find, *, exclusive: bool, concepts: Collection[str] = ()
) -> list[UnreadLabel]:
    """Find the labels that name neither a class nor a concept, the most frequent first."""
    labelled = [entry for entry in entries if entry.label and entry.present]
    labels = without_concepts([entry.label or "" for entry in labelled], concepts)
    rows: dict[str, list[int]] = defaultdict(list)
    for entry, label in zip(labelled, labels, strict=True):
        source = find(entry.id)
        if source and source.row:
            rows[label].append(source.row)
    return [
        UnreadLabel(count, tuple(dict.fromkeys(rows[label])), _nearest(label, classes))
        for label, count in read_labels(labels, classes, exclusive).unread.items()
    ]


def _nearest(label: str, classes: Sequence[str]) -> str | None:
    folded = {name.casefold(): name for name in classes}
    found = difflib.get_close_matches(label.casefold(), folded, n=1)
    return folded[found[0]] if found else None
