"""Labels as the report reads them: which classes they name, and which of them name none."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

SEPARATOR = "|"
"""Between the classes of a label, where classes do not exclude each other."""

NOTHING = ("none", "normal", "healthy", "negative", "no finding")
"""Labels which say that no class is there, in any case, where classes do not exclude each other."""


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
    """Read labels; empty where there is none.

    Where classes exclude each other, a label is the name of one. Else it is several names joined by ``|``, or one of
    `NOTHING`. A label that is spelt in another way says nothing: it might be any class.
    """
    named = [[label] if exclusive else label.split(SEPARATOR) for label in labels]
    truth = np.array([[name in names for name in classes] for names in named], bool).reshape(len(labels), len(classes))
    known = np.array([set(names) <= set(classes) for names in named], bool)
    if not exclusive:
        known |= np.array([label.strip().lower() in NOTHING for label in labels], bool)
    unread = Counter(label for label, is_known in zip(labels, known, strict=True) if label and not is_known)
    return Labels(truth & known[:, None], known, dict(sorted(unread.items(), key=lambda item: (-item[1], item[0]))))
