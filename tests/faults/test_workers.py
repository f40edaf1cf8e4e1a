"""Workers that are killed, one or all, at any stage; that work twice; and that are one, two or four."""

import random
from pathlib import Path
from typing import Any

import pytest

from tasks import run
from tasks.storage.lease import Ended, guard
from tasks.storage.location import Location
from tasks.work.engines import Engines
from tasks.work.fit import fit
from tasks.work.images import find_again
from tests.faults import sabotage
from tests.faults.conftest import IMAGES, SOAK, Measured
from tests.faults.workers import begin, end, plan_and_set_up, start, work_through, work_together
from tests.tasks.outputs import carry_out, promised

MOMENTS = {"committing": IMAGES // 32, "evaluating": IMAGES // 32 * sabotage.RECORDED_AT}
"""How often one worker reaches a stage until half of the work is done; it reaches the others once a batch."""


def moments(stage: str, seed: int) -> list[int]:
    """How often the stage is reached before each death: all moments of what is done once, else some that are drawn."""
    if stage in ("fitting", "computing results"):
        return [*range(sabotage.RECORDED_AT)]
    return random.Random(seed).sample(range(MOMENTS.get(stage, IMAGES // 8)), 3 if SOAK else 2)


@pytest.mark.parametrize("stage", sabotage.STAGES)
def test_a_worker_killed_at_a_stage(
    stage: str, content: Any, local: Location, tmp_path: Path, measured: Measured, rounds: range
) -> None:
    outputs, died, explained = [], 0, 0
    for seed in rounds:
        output = plan_and_set_up(content(local / str(seed)))
        folder = sabotage.plan_deaths(tmp_path / f"deaths-{seed}", [(stage, at) for at in moments(stage, seed)])
        died += work_through(output, folder)
        assert sabotage.deaths_left(folder) == 0
        explained += sabotage.explained(folder)
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
        end(output)
        outputs.append(output)
    measured("every worker killed at once", died, outputs, explained / (IMAGES * len(outputs)))


def test_a_worker_taken_for_dead_works_on_beside_its_successor(
    content: Any, local: Location, tmp_path: Path, measured: Measured
) -> None:
    output, plan = begin(content(local))
    folder = sabotage.plan_deaths(tmp_path / "deaths", [])
    workers = [start(output, folder, range(len(plan.shards))) for _ in range(2)]
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    end(output)
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
        end(output)
        outputs.append(output)
    measured(f"shards shuffled over {workers} workers", len(outputs), outputs, explained / (IMAGES * len(outputs)))


def test_shards_one_by_one_from_the_last(
    content: Any, local: Location, explained: list[int], measured: Measured
) -> None:
    output, plan = begin(content(local))
    engines = Engines()
    for shard in reversed(plan.shards):
        run.deliver(output, [shard.index], engines)
    end(output)
    measured("shards one by one, the last first", len(plan.shards), [output], sum(explained) / IMAGES)


@pytest.mark.parametrize("moment", ["computed", "stored"])
def test_a_fit_whose_run_has_ended_leaves_the_plan_to_the_next_run(
    moment: str, content: Any, local: Location, explained: list[int], measured: Measured
) -> None:
    output = plan_and_set_up(content(local))
    before = promised(output)
    moments = iter(["computed", "stored"])

    def check() -> None:
        if next(moments) == moment:
            guard(output, 1)()  # there is no such lease any more

    with pytest.raises(Ended, match="has ended"):
        fit(output, find_again(output, before[0]), Engines(), check)
    assert promised(output) == before
    carry_out(content(output))
    measured(f"run ended when an artefact was {moment}", 1, [output], sum(explained) / IMAGES)
