"""The preference between explainers, as raters say which of those that they were shown help."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations

import numpy as np
from pydantic import BaseModel, ConfigDict

from tasks.ratings.rating import Rating
from tasks.ratings.statistics import Estimate, mean_over_patients


class Preferred(BaseModel):
    """The share of the comparisons of one rating that an explainer wins, 0.5 where it is no better than the others.

    Attributes
    ----------
    over
        The other explainer; None: all that were shown beside it, on average.
    ratings
        In which both were shown.
    """

    model_config = ConfigDict(frozen=True)

    explainer: str
    over: str | None
    ratings: int
    share: Estimate


def preferences(
    ratings: Sequence[Rating], explainers: Sequence[str], patients: Mapping[str, str]
) -> tuple[Preferred, ...]:
    """Compare each explainer with all others, then with each of those that follow it.

    In a rating, an explainer wins over those that come later in `helps`, or that are not in `helps` at all; between two
    that are not, it is a draw, which counts a half. So both are compared on the same images by the same rater.

    Parameters
    ----------
    patients
        By id of an image, whose it is.
    """
    wins = [(patients[rating.image_id], dict(_wins(rating))) for rating in ratings]

    def preferred(explainer: str, over: str | None) -> Preferred:
        rivals = [over] if over else explainers
        outcomes = [
            (patient, float(np.mean(own)))
            for patient, won in wins
            if (own := [won[explainer, rival] for rival in rivals if (explainer, rival) in won])
        ]
        share = mean_over_patients([outcome for _, outcome in outcomes], [patient for patient, _ in outcomes])
        return Preferred(explainer=explainer, over=over, ratings=len(outcomes), share=share)

    asked = [preferred(explainer, None) for explainer in explainers]
    asked += [preferred(first, second) for first, second in combinations(explainers, 2)]
    return tuple(one for one in asked if one.ratings)


def _wins(rating: Rating) -> Iterator[tuple[tuple[str, str], float]]:
    """By pair of explainers, 1 where the first wins, 0 where the second does, 0.5 where neither."""
    if rating.helps is None:
        return
    place = {name: rating.helps.index(name) if name in rating.helps else len(rating.helps) for name in rating.shown}
    for first, second in combinations(rating.shown, 2):
        won = 0.5 + (np.sign(place[second] - place[first])) / 2
        yield (first, second), won
        yield (second, first), 1 - won
