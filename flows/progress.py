"""Progress for whoever watches: bars at a terminal, plain lines elsewhere."""

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

logger = logging.getLogger("cohortlens")

_LINE_EVERY = 10.0


class Report(Protocol):
    """Says that `done` of `of` are done; `units` is what the rate counts, if not what is done."""

    def __call__(self, done: int, of: int, units: int | None = None) -> None: ...


@contextmanager
def bar(what: str, unit: str) -> Iterator[Report]:
    """Show the progress of the body: a bar at a terminal, elsewhere a log line every ten seconds."""
    if not logger.isEnabledFor(logging.INFO):
        yield lambda done, of, units=None: None
        return
    began = time.monotonic()

    def rate(count: int) -> str:
        return f"{count / max(time.monotonic() - began, 1e-3):.1f} {unit}/s"

    if not sys.stderr.isatty():
        last = began

        def line(done: int, of: int, units: int | None = None) -> None:
            nonlocal last
            if done == of or time.monotonic() - last > _LINE_EVERY:
                last = time.monotonic()
                logger.info("%s: %d of %d (%s)", what, done, of, rate(done if units is None else units))

        yield line
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task(what, total=None, rate="")

        def update(done: int, of: int, units: int | None = None) -> None:
            progress.update(task, completed=done, total=of, rate=rate(done if units is None else units))

        yield update
