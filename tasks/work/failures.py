"""A run in which too much fails is stopped early: something is wrong with all of it."""

from collections import Counter
from collections.abc import Mapping, Sequence

from tasks.cohort.entry import Entry
from tasks.cohort.packed_entries import packed
from tasks.plan.plan import Plan
from tasks.store.commit import Commit
from tasks.store.template import STATUS

_FEWEST = 50
"""Images that have to be seen before a run is stopped."""

_REASONS_SHOWN = 5


class TooManyFailures(Exception):
    """More images are quarantined or failed than is allowed; what is delivered stays."""


def check_survey(plan: Plan, entries: Sequence[Entry]) -> None:
    """Check what the survey quarantined, before anything is explained.

    Raises
    ------
    TooManyFailures
        If it is more than the allowed share of the cohort.
    """
    _check(plan, len(entries), Counter(filter(None, packed(entries).columns("reason"))))


class Seen:
    """The deliveries of a run so far, counted as its commits come, which are too many to be kept.

    Attributes
    ----------
    shards
        Whose commits were counted.

    Raises
    ------
    TooManyFailures
        If more than the allowed share of it is quarantined or failed.
    """

    def __init__(self, plan: Plan, commits: Mapping[int, Commit]) -> None:
        self.shards: set[int] = set()
        self._plan = plan
        self._status: Counter[str] = Counter()
        self._reasons: Counter[str] = Counter()
        self.add(commits)

    def add(self, commits: Mapping[int, Commit]) -> None:
        for shard, commit in commits.items():
            self.shards.add(shard)
            self._status.update(STATUS[code] for code in commit.status)
            self._reasons.update(commit.reasons.values())
        seen = self._status
        _check(self._plan, seen["explained"] + seen["quarantined"] + seen["failed"], self._reasons)


def _check(plan: Plan, seen: int, reasons: Counter[str]) -> None:
    allowed, failed = plan.cohort.allowed_failures, reasons.total()
    if seen < _FEWEST or failed <= allowed * seen:
        return
    shown = [f"  {count} × {reason}" for reason, count in reasons.most_common(_REASONS_SHOWN)]
    raise TooManyFailures(
        f"{failed} of the {seen} images seen so far (of {plan.images}) are quarantined or failed, more than the "
        f"{allowed:.0%} of cohort.allowed_failures. Of {len(reasons)} reasons, the most frequent:\n"
        + "\n".join(shown)
        + "\nWhat is delivered stays: mend the cohort or the configuration, or raise cohort.allowed_failures, and run "
        "again"
    )
