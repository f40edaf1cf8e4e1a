"""Work for the whole cohort is not done again for each of its shards, batches or pictures."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tasks.plan import manifest
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.template import open_store
from tasks.work import batches, explain
from tasks.work.engines import Engines
from tasks.work.evaluate import evaluate_shards
from tests.benchmarks import stub
from tests.tasks.outputs import Cohort, carry_out, explained


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How often the manifest is opened, and how often a plan is read or digested."""
    counts: Counter[str] = Counter()

    def count(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any) -> Any:
            counts[name] += 1
            return call(*arguments)

        return counting

    digest = Plan.digest.fget  # type: ignore[attr-defined]
    monkeypatch.setattr(manifest, "_opened", count("manifests opened", manifest._opened))
    monkeypatch.setattr(Plan, "digest", property(count("digests", digest)))
    monkeypatch.setattr(Plan, "read", count("plans read", Plan.read))
    return counts


@pytest.mark.parametrize("metrics", [(), ("gini",)])
def test_a_worker_looks_at_manifest_and_plan_as_often_for_three_shards_as_for_one(
    metrics: tuple[str, ...], tmp_path: Path, counted: Counter[str]
) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(48)), Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output, metrics=metrics))
    found = []
    for shards in ([0], [0, 1, 2]):
        for folder in ("commits", "evaluations"):
            (output / folder).remove()
        counted.clear()
        explained(output, shards)
        evaluate_shards(output, shards, Engines())
        found.append(dict(counted))
    assert found[0] == found[1]


def test_the_benchmark_delivers_whole_shards_without_explaining(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module, name in ((batches, "read_images"), (explain, "_explain"), (explain, "_keep")):
        monkeypatch.setattr(module, name, getattr(module, name))  # so that it is as it was, afterwards
    stub.install()
    cohort, output = Cohort(tmp_path / "cohort", range(20)), Location(url=str(tmp_path / "out"))
    assert carry_out(cohort.content(output)).explained == 20
    assert not open_store(output).attribution.any()


def test_a_store_is_opened_without_a_task_for_every_picture(tmp_path: Path) -> None:
    cohort, output = Cohort(tmp_path / "cohort", range(4)), Location(url=str(tmp_path / "out"))
    carry_out(cohort.content(output))
    assert not open_store(output).chunks
