"""What Prefect's UI shows of a run: its progress, what became of the cohort, and the report."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import httpx
from prefect.artifacts import (
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from tasks.finish import Summary
from tasks.storage import Location

logger = logging.getLogger("cohortlens")


def show_progress(artifact: Any, progress: float) -> Any:
    """Show progress in the UI; returns the artifact that does."""
    if artifact is None:
        return create_progress_artifact(progress=progress, key="shards", description="Shards delivered")
    update_progress_artifact(artifact, progress=progress)
    return artifact


def publish(summary: Summary, report: Location) -> None:
    rows = {key: value for key, value in asdict(summary).items() if key not in ("flags", "seconds")}
    rows |= {f"flagged: {flag}": images for flag, images in summary.flags.items()}
    rows |= {f"seconds to {stage}": round(seconds, 1) for stage, seconds in summary.seconds.items()}
    create_table_artifact(
        table=[{"": name.replace("_", " "), "value": value} for name, value in rows.items()],
        key="summary",
        description="What became of the cohort",
    )
    create_link_artifact(link=_link(report), key="report", link_text="Report", description="The pictures")


def _link(report: Location) -> str:
    return f"file://{report.url}" if report.is_local else report.url


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """Go on without Prefect's server: it shows how the work goes, and the work does not need it."""
    try:
        yield
    except httpx.HTTPError as error:
        logger.warning("Prefect's server does not answer (%s); the work goes on", type(error).__name__)
