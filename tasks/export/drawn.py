"""Regions that raters drew, brought back onto the grid of the source."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from tasks.export.names import labels, named
from tasks.export.native import Way
from tasks.ratings.rating import Rating

SHOWN = ("rater", "time", "target", "region")
"""The fields of a rating that are exported beside its id; free text and verdicts stay with the rating."""


@dataclass(frozen=True)
class DrawnRegion:
    """The region of a rating that counts.

    Attributes
    ----------
    rater, rating
        The rater's pseudonym, and the rating's id.
    target, explained
        The target whose maps the rater was shown, as the store names it, and the class that it is; empty where the
        rating names none.
    time
        When the rating was given, in ISO 8601.
    on_grid
        ``(*grid)``; nothing is marked where the rater says that there is no finding.
    """

    rater: str
    rating: str
    target: str
    explained: str
    time: str
    on_grid: NDArray[np.bool_]
    way: Way

    @property
    def title(self) -> str:
        """A description that names the rater."""
        return f"drawn by {self.rater}{f' for {self.explained}' if self.explained else ''}"

    @property
    def values(self) -> NDArray[np.bool_]:
        """The region on the source's grid, ``(*space)``; made anew each time, since volumes are large."""
        return self.way.labels(self.on_grid.view(np.uint8)) == 1

    @property
    def is_lost(self) -> bool:
        """Whether places were drawn, and no voxel of the source is nearest to one: empty would say "no finding"."""
        return bool(self.on_grid.any()) and not self.values.any()


def drawn_in(ratings: Sequence[Rating], way: Way, explained: Mapping[str, str]) -> list[DrawnRegion]:
    """Take the regions of ratings, by rater and target; a rater has one rating of a target that counts.

    Parameters
    ----------
    explained
        By target, the class that it is.
    """
    found = [
        DrawnRegion(
            rater=rating.rater,
            rating=rating.id,
            target=rating.target or "",
            explained=explained.get(rating.target, rating.target) if rating.target else "",
            time=rating.time.isoformat(),
            on_grid=rating.region.mask,
            way=way,
        )
        for rating in ratings
        if rating.region
    ]
    return sorted(found, key=lambda one: (one.rater, one.target))


def names_of(drawn: Sequence[DrawnRegion]) -> list[str]:
    """Name the regions of a case in files, such as ``target-lesion_desc-drawnByReaderA``, each otherwise."""
    return named(
        {
            "target": labels([one.target for one in drawn]),
            "desc": labels([f"drawn by {one.rater}" for one in drawn]),
        }
    )
