"""Events by which a run tells Prefect's automations; nothing of a patient is in them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from prefect.events import emit_event

from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.work.finish import Summary

if TYPE_CHECKING:
    from tasks.report.drift import Shift

_SHOWN = 10


def quarantined_too_many(output: Location, text: str) -> None:
    _emit("cohortlens.quarantined-share-exceeded", output, text)


def tell_of_failures(output: Location, plan: Plan, summary: Summary) -> None:
    """Tell if more images are quarantined or failed than are allowed."""
    allowed = plan.cohort.allowed_failures
    if summary.not_explained > allowed:
        failed = summary.quarantined + summary.failed
        quarantined_too_many(
            output, f"{failed} of {summary.images} images are quarantined or failed; {allowed:.0%} are allowed"
        )


def tell_of_drift(output: Location, worse: "Sequence[Shift]") -> None:
    """Tell what of the evidence is worse than it was."""
    if worse:
        more = [f"and {len(worse) - _SHOWN} more"] if len(worse) > _SHOWN else []
        _emit("cohortlens.evidence.worse", output, "; ".join([*map(str, worse[:_SHOWN]), *more]))


def _emit(event: str, output: Location, text: str) -> None:
    resource = {"prefect.resource.id": f"cohortlens.output.{output}", "prefect.resource.name": str(output)}
    emit_event(event, resource, payload={"text": text})
