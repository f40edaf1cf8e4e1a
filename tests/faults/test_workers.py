"""Workers that are killed, one or all, at any stage; that work twice; and that are one, two or four."""

import random
from pathlib import Path
from typing import Any

import pytest

from tasks.storage.location import Location
from tasks.work.finish import finish
from tests.faults import sabotage
from tests.faults.conftest import IMAGES, Measured
from tests.faults.workers import begin, start, work_through, work_together


@pytest.mark.parametrize("stage", sabotage.STAGES)
def test_a_worker_killed_at_a_stage(
    stage: str, content: Any, local: Location, tmp_path: Path, measured: Measured, rounds: range
) -> None:
    outputs, died, explained = [], 0, 0
    for seed in rounds:
        output, plan = begin(content(local / str(seed)))
        befores = random.Random(seed).sample(range(IMAGES // 32 if stage == "committing" else IMAGES // 8), 3)
        folder = sabotage.plan_deaths(tmp_path / f"deaths-{seed}", [(stage, before) for before in befores])
        died += work_through(output, plan, folder)
        assert sabotage.deaths_left(folder) == 0
        explained += sabotage.explained(folder)
        finish(output)
        outputs.append(output)
    measured(f"worker killed while {stage}", died, outputs, explained / (IMAGES * len(outputs)))


def test_every_worker_killed_at_once(
    content: Any, local: Location, tmp_path: Path, measured: Measured, rounds: range
) -> None:
    outputs, died, explained = [], 0, 0
    for seed in rounds:
        output, plan = begin(content(local / str(seed)))
        folder = sabotage.plan_deaths(tmp_path / f"deaths-{seed}", [], pace=0.1)
        died += work_together(output, plan, folder, workers=2, seed=seed, kills=2)
        explained += sabotage.explained(folder)
        finish(output)
        outputs.append(output)
    measured("every worker killed at once", died, outputs, explained / (IMAGES * len(outputs)))


def test_a_worker_taken_for_dead_works_on_beside_its_successor(
    content: Any, local: Location, tmp_path: Path, measured: Measured
) -> None:
    output, plan = begin(content(local))
    folder = sabotage.plan_deaths(tmp_path / "deaths", [])
    workers = [start(output, range(len(plan.shards)), folder) for _ in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    finish(output)
    measured("shards delivered by two workers at once", len(plan.shards), [output], sabotage.explained(folder) / IMAGES)


@pytest.mark.parametrize("workers", [1, 2, 4])
def test_any_number_of_workers_and_any_order(
    workers: int, content: Any, local: Location, tmp_path: Path, measured: Measured, rounds: range
) -> None:
    outputs, explained = [], 0
    for seed in rounds:
        output, plan = begin(content(local / str(seed)))
        folder = sabotage.plan_deaths(tmp_path / f"deaths-{seed}", [])
        assert work_together(output, plan, folder, workers=workers, seed=seed, kills=0) == 0
        explained += sabotage.explained(folder)
        finish(output)
        outputs.append(output)
    measured(f"shards shuffled over {workers} workers", len(outputs), outputs, explained / (IMAGES * len(outputs)))


def test_shards_one_by_one_from_the_last(
    content: Any, local: Location, explained: list[int], measured: Measured
) -> None:
    output, plan = begin(content(local))
    for shard in reversed(plan.shards):
        explained(output, [shard.index])
    finish(output)
    measured("shards one by one, the last first", len(plan.shards), [output], sum(explained) / IMAGES)
