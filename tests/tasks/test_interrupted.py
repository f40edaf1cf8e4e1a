"""A run that is stopped before any of its writes, and then run again, leaves what the undisturbed run leaves."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.plan import shards as shards_module
from tasks.storage.location import Location
from tasks.store import template
from tasks.upkeep import verify as verify_module
from tasks.upkeep.verify import verify
from tasks.upkeep.withdraw import withdraw
from tests.soak import spread
from tests.tasks.outputs import Cohort, carry_out, promised, stored

MORE = ["saliency", {"name": "smoothgrad", "samples": 2}, {"name": "saliency", "label": "again"}]


class Killed(BaseException):
    """As final as a signal: nothing in the code catches it."""


class Writes:
    """Counts what changes storage, and dies before the chosen one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.left: int | None = None
        self.count = 0
        for name in ("write", "remove"):
            monkeypatch.setattr(Location, name, self._counted(getattr(Location, name)))

    def _counted(self, change: Callable[..., None]) -> Callable[..., None]:
        def counted(*arguments: Any) -> None:
            if self.left is not None:
                if self.left <= 0:
                    raise Killed
                self.left -= 1
            self.count += 1
            change(*arguments)

        return counted


@pytest.fixture(autouse=True)
def small_shards(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    monkeypatch.setattr(os, "fsync", lambda file: None)  # no power is cut here, and it takes a third of the time


@pytest.fixture(autouse=True)
def templates_made_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Templates take most of the time, and each is the same for most of the interruptions."""
    made: dict[Any, dict[str, bytes]] = {}
    make = template.template

    def known(plan: Any, entries: Any, status: Any) -> dict[str, bytes]:
        key = plan.model_dump_json(), tuple(entries), status.tobytes()
        if key not in made:
            made[key] = make(plan, entries, status)
        return made[key]

    for module in (template, verify_module):
        monkeypatch.setattr(module, "template", known)


def first(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output))


def take_out(cohort: Cohort, output: Location) -> None:
    withdraw(output, "patient-2")


def extend_and_append(cohort: Cohort, output: Location) -> None:
    """An explainer and two images more, one of them in a delivered shard; one image changed, and one is lost."""
    carry_out(cohort.content(output, explainers=MORE), extend=True)


def overwrite(cohort: Cohort, output: Location) -> None:
    carry_out(cohort.content(output, explainers=["saliency"]), overwrite=True)


def change(cohort: Cohort) -> None:
    cohort.add([7, 8])
    cohort.add([5], version=1)
    cohort.take_away([4])


STAGES = (first, extend_and_append, take_out, overwrite)


@pytest.mark.parametrize(
    ("stage", "changes", "finished"),
    [
        (first, False, False),
        (extend_and_append, True, True),
        (take_out, False, True),
        (overwrite, False, True),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_run_stopped_before_any_write_ends_as_the_undisturbed_one(
    stage: Callable[[Cohort, Location], None],
    changes: bool,
    finished: bool,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cohort = Cohort(tmp_path / "cohort", range(6))
    if finished:
        first(cohort, Location(url=str(tmp_path / "before")))
    else:
        (tmp_path / "before").mkdir()
    if changes:
        change(cohort)

    def begin(name: str) -> Location:
        shutil.copytree(tmp_path / "before", tmp_path / name)
        return Location(url=str(tmp_path / name))

    undisturbed = begin("undisturbed")
    writes = Writes(monkeypatch)
    stage(cohort, undisturbed)
    expected, total = (stored(undisturbed), promised(undisturbed)), writes.count
    assert total > 10
    assert verify(undisturbed) == []
    for number in spread(range(total), 4, first=STAGES.index(stage)):
        output = begin(f"stopped-{number}")
        writes.left = number
        with pytest.raises(Killed):
            stage(cohort, output)
        writes.left = None
        stage(cohort, output)
        assert (stored(output), promised(output)) == expected, f"stopped before write {number} of {total}"
        assert verify(output) == [], f"stopped before write {number} of {total}"
        shutil.rmtree(tmp_path / f"stopped-{number}")
