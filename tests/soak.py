"""Repetition: `make soak` repeats everything, `make test` a part that is spread evenly."""

import os
from collections.abc import Sequence
from typing import TypeVar

T = TypeVar("T")

SOAK = "COHORTLENS_SOAK" in os.environ


def spread(items: Sequence[T], of: int, first: int = 0) -> Sequence[T]:
    """Choose every `of`-th item, beginning with number `first`, and the last; all of them in a soak."""
    return items if SOAK else [*items[first % of :: of], items[-1]]
