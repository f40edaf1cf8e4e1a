"""The artifacts of a run in Prefect's UI: its progress, what became of the cohort, report and viewer."""

import csv
import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from datetime import timedelta
from typing import Any

import httpx
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)
from prefect.settings import PREFECT_CLIENT_MAX_RETRIES, temporary_settings

from flows.prices import Prices
from tasks.plain import plain
from tasks.storage.location import Location
from tasks.telemetry import Spent
from tasks.work.finish import Summary

VIEWER = "viewer/index.html"

logger = logging.getLogger("cohortlens")


class Progress:
    """A progress artifact: images done of all, images a second, time left.

    Parameters
    ----------
    images
        Number of images of the output.
    already
        Number of them that earlier runs have delivered.
    """

    def __init__(self, images: int, already: int) -> None:
        self._images, self._already = images, already
        self._began = time.monotonic()
        self._artifact: Any = None

    def show(self, images: int) -> None:
        """Show that this run has delivered so many images; two requests."""
        done = self._already + images
        share, about = 100 * done / self._images, self._about(done, images)
        if self._artifact is None:
            self._artifact = create_progress_artifact(progress=share, key="images", description=about)
        else:
            update_progress_artifact(self._artifact, progress=share, description=about)

    def _about(self, done: int, images: int) -> str:
        about = f"{done:,} of {self._images:,} images"
        if images and (seconds := time.monotonic() - self._began) > 0:
            rate = images / seconds
            about += f", {rate:.3g} images/s"
            if left := self._images - done:
                about += f", {timedelta(seconds=round(left / rate))} left"
        return about


def publish(summary: Summary, delivered: int, spent: Spent, prices: Prices) -> None:
    """Show what became of the cohort, and what the run took.

    Parameters
    ----------
    delivered
        Images of the shards that this run has delivered.
    """
    rows: dict[str, Any] = {
        "delivered by this run": delivered,
        "delivered before": summary.images - summary.pending - delivered,
        **{key: value for key, value in asdict(summary).items() if key not in ("flags", "seconds", "computed")},
        **{f"flagged: {flag}": images for flag, images in summary.flags.items()},
        **{f"seconds to {stage}": round(seconds, 1) for stage, seconds in summary.seconds.items()},
        "GPU seconds": round(spent.gpu_seconds, 1),
        "CPU seconds": round(spent.cpu_seconds, 1),
        "S3 PUT requests": spent.puts,
        "S3 GET requests": spent.gets,
        **{f"cost of {what}": cost for what, cost in prices.costs(spent, summary.bytes_stored).items()},
    }
    create_table_artifact(
        table=[{"": plain(name.replace("_", " ")), "value": value} for name, value in rows.items()],
        key="summary",
        description="What became of the cohort, and what this run took",
    )


def publish_pages(output: Location, report: Location, address: str | None) -> None:
    """Show where report and viewer are, and the report's first cases.

    Parameters
    ----------
    address
        Where a browser finds the output's folder; None: only a link to the report's own place is shown.
    """
    from tasks.report import PICTURE  # workers import this module, and the report's imports take a second

    inside = len(output.url.rstrip("/"))

    def link(key: str, text: str, location: Location, description: str) -> None:
        place = f"{address}{location.url[inside:]}" if address else _link(location)
        create_link_artifact(link=place, key=key, link_text=text, description=description)

    link("report", "Report", report, "The pictures")
    if not address:
        return
    if (viewer := output / VIEWER).exists():
        link("viewer", "Viewer", viewer, "Every image: search, slices, explainers side by side, ratings")
    picture = f"{address}/{PICTURE}"
    create_image_artifact(image_url=picture, key="cases", description=f"[The first cases]({picture}) of the report")


def publish_evidence(output: Location) -> None:
    """Show the evidence table over all classes, if there is one."""
    from tasks.report import TABLE
    from tasks.report.statistics import ALL_CLASSES

    table = output / TABLE
    if not table.exists():
        return
    rows = [row for row in csv.DictReader(table.read().decode().splitlines()) if row["class"] == ALL_CLASSES]
    shown = ("metric", "explainer", "values", "patients", "mean", "low", "high", "differs")
    create_table_artifact(
        table=[{name: plain(row[name]) for name in shown} for row in rows],
        key="evidence",
        description="What each metric says of each explainer, with 95 % intervals, and whether it differs from every "
        "control; the classes apart are in `report/evidence.csv`",
    )


def _link(location: Location) -> str:
    return f"file://{location.url}" if location.is_local else location.url


@contextmanager
def server_may_be_away() -> Iterator[None]:
    """Go on without Prefect's server: it shows how the work goes, and the work does not need it."""
    try:
        yield
    except httpx.HTTPError as error:
        logger.warning("Prefect's server does not answer (%s); the work goes on", type(error).__name__)


@contextmanager
def without_retries() -> Iterator[None]:
    """Make each request of the body to Prefect's server once: whoever asks again in seconds need not wait for it.

    Prefect takes a twentieth of a second of CPU to change a setting.
    """
    with temporary_settings({PREFECT_CLIENT_MAX_RETRIES: 0}):
        yield
