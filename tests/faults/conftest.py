"""Runs that meet faults, held against the undisturbed run; and the table of what came of them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.location import Location
from tasks.work import explain as explain_module
from tests.faults.outcome import Expected, compare
from tests.faults.table import PROPERTY, Outcome
from tests.tasks.outputs import Cohort, carry_out

SOAK = "COHORTLENS_SOAK" in os.environ
IMAGES = 480 if SOAK else 96
FEW = 480 if SOAK else 32
"""The number of images in modules that call it their `IMAGES`: more would tell nothing new there."""

Measured = Callable[..., None]

os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[2])  # the processes that a test starts need it


@pytest.fixture(scope="session")
def rounds() -> range:
    """Seeds of the cases that are drawn."""
    return range(8 if SOAK else 1)


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest) -> Cohort:
    """Pictures of 16 x 16, in shards of 16 and batches of 4; as many as the module's `IMAGES`."""
    return Cohort(tmp_path_factory.mktemp("faults") / "cohort", range(request.module.IMAGES))


@pytest.fixture(scope="module")
def content(cohort: Cohort) -> Callable[[Location], dict[str, Any]]:
    """The configuration of a run that has every stage, given its output: it fits, explains, evaluates and concludes."""
    return lambda output: cohort.content(
        output,
        explainers=["saliency", {"name": "expected_gradients", "samples": 2}],
        metrics=["gini"],
        results=["mean_maps"],
        batch_size=4,
        compute={},
    )


@pytest.fixture(scope="module")
def expected(content: Any, tmp_path_factory: pytest.TempPathFactory) -> Expected:
    """The store of the undisturbed run."""
    output = Location(url=str(tmp_path_factory.mktemp("undisturbed") / "out"))
    carry_out(content(output))
    return Expected.read(output)


@pytest.fixture
def explained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The number of images in each batch that this process explains."""
    batches: list[int] = []
    ask = explain_module._ask

    def counted(engine: Any, batch: Any) -> Any:
        batches.append(len(batch.rows))
        return ask(engine, batch)

    monkeypatch.setattr(explain_module, "_ask", counted)
    return batches


@pytest.fixture
def measured(request: pytest.FixtureRequest, expected: Expected) -> Measured:
    """Compare outputs with the undisturbed one, enter the case into the table, and fail if anything differs.

    Called with the case, the number of faults that happened, the outputs, and the work done as a multiple of the
    undisturbed run's.
    """

    def measure(case: str, faults: int, outputs: list[Location], work: float) -> None:
        found = [compare(output, expected) for output in outputs]
        whole = sum(not lost and not differing for lost, differing in found)
        outcome = Outcome(
            case=case,
            faults=faults,
            survived=faults if whole == len(found) else faults * whole // len(found),
            lost=sum(lost for lost, _ in found),
            differing=sum(differing for _, differing in found),
            extra=work - 1,
        )
        request.node.user_properties.append((PROPERTY, list(outcome)))
        assert (outcome.lost, outcome.differing) == (0, 0), outcome
        assert faults > 0

    return measure


@pytest.fixture
def local(tmp_path: Path) -> Location:
    return Location(url=str(tmp_path / "out"))
