"""The section on ratings: what readers think of predictions and maps, as `cohortlens ratings` summed up."""

from dataclasses import dataclass
from math import nan

from tasks.plan.plan import Plan
from tasks.ratings.preference import Preferred
from tasks.ratings.statistics import Estimate
from tasks.ratings.summary import Answers, Summary
from tasks.report.numbers import with_interval
from tasks.storage.location import Location


@dataclass(frozen=True)
class Told:
    """A summary of ratings, for the page.

    Attributes
    ----------
    is_current
        False where the plan has changed since the ratings were folded in.
    """

    summary: Summary
    is_current: bool

    @property
    def answers(self) -> list[Answers]:
        """The questions that anyone has answered."""
        return [answers for answers in self.summary.answers if any(answers.counts.values())]

    @property
    def preferred(self) -> list[Preferred]:
        """Each explainer against all others."""
        return [one for one in self.summary.preferences if one.over is None]

    @staticmethod
    def written(estimate: Estimate) -> str:
        """Write a number with its interval."""
        value, low, high = (nan if one is None else one for one in (estimate.value, estimate.low, estimate.high))
        return with_interval(value, low, high)


def told_ratings(output: Location, plan: Plan) -> Told | None:
    """Read what ratings say of an output; None if nothing was folded in, or none counts."""
    summary = Summary.read(output)
    return Told(summary, summary.plan_digest == plan.digest) if summary and summary.ratings else None
