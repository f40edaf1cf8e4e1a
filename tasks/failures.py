"""A run in which too much fails is stopped early: something is wrong with all of it."""

from collections import Counter
from collections.abc import Iterable, Sequence

from tasks.commit import Commit
from tasks.manifest import Entry
from tasks.plan import Plan
from tasks.store import STATUS

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
    _check(plan, len(entries), [entry.reason for entry in entries if entry.reason])


def check_commits(plan: Plan, commits: Iterable[Commit]) -> None:
    """Check what has been delivered so far.

    Raises
    ------
    TooManyFailures
        If more than the allowed share of it is quarantined or failed.
    """
    known = list(commits)
    seen = Counter(STATUS[code] for commit in known for code in commit.status)
    reasons = [reason for commit in known for reason in commit.reasons.values()]
    _check(plan, seen["explained"] + seen["quarantined"] + seen["failed"], reasons)


def _check(plan: Plan, seen: int, reasons: Sequence[str]) -> None:
    allowed = plan.cohort.allowed_failures
    if seen < _FEWEST or len(reasons) <= allowed * seen:
        return
    shown = [f"  {count} × {reason}" for reason, count in Counter(reasons).most_common(_REASONS_SHOWN)]
    raise TooManyFailures(
        f"{len(reasons)} of the {seen} images seen so far (of {plan.images}) are quarantined or failed, more than the "
        f"{allowed:.0%} of cohort.allowed_failures. Of {len(set(reasons))} reasons, the most frequent:\n"
        + "\n".join(shown)
        + "\nWhat is delivered stays: mend the cohort or the configuration, or raise cohort.allowed_failures, and run "
        "again"
    )
