"""Worker processes without a cluster: started in a moment, killed at will, started again."""

import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.config import RunConfig
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store import template
from tasks.work.explain import explain_shards
from tasks.work.pending import pending
from tests.faults import sabotage
from tests.tasks.outputs import prepared

_started = multiprocessing.get_context("forkserver")
_PRELOADED = ["tasks.work.explain", "monai.networks.nets", "monai.transforms", "tests.faults.sabotage"]
_started.set_forkserver_preload(_PRELOADED)


def begin(content: dict[str, Any]) -> tuple[Location, Plan]:
    """Plan a run and set up its store."""
    output = RunConfig.model_validate(content).output
    ready = prepared(content)
    ready.plan.write(output, ready.entries)
    template.set_up(output, ready.plan, ready.entries)
    return output, ready.plan


def start(output: Location, shards: Sequence[int], folder: Path) -> Any:
    worker = _started.Process(target=_work, args=(output, list(shards), folder), daemon=True)
    worker.start()
    return worker


def _work(output: Location, shards: list[int], folder: Path) -> None:
    sabotage.install(folder)
    explain_shards(output, shards)


def work_through(output: Location, plan: Plan, folder: Path) -> int:
    """Start one worker after the other until all is delivered; return how many died."""
    died = 0
    while shards := pending(output, plan):
        worker = start(output, shards, folder)
        worker.join()
        died += worker.exitcode != 0
    return died


def work_together(output: Location, plan: Plan, folder: Path, workers: int, seed: int, kills: int) -> int:
    """Deliver with some workers at once, and kill all of them `kills` times, at moments that are drawn."""
    generator = random.Random(seed)
    died = 0
    while shards := pending(output, plan):
        generator.shuffle(shards)
        running = [start(output, shards[number::workers], folder) for number in range(workers)]
        if died < kills * workers:
            enough = sabotage.explained(folder) + generator.randint(1, 40)
            while sabotage.explained(folder) < enough and any(worker.is_alive() for worker in running):
                time.sleep(0.01)
            for worker in running:
                worker.kill()
        for worker in running:
            worker.join()
            died += worker.exitcode != 0
    return died
