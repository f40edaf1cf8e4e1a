"""Worker processes without a cluster: started in a moment, killed at will, started again."""

import multiprocessing
import random
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from flows.config import RunConfig
from tasks import run
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.work.engines import Engines
from tasks.work.finish import Incomplete, finish
from tasks.work.fit import fit
from tasks.work.images import find_again
from tasks.work.results import compute_results
from tests.faults import sabotage
from tests.tasks.outputs import prepared

_started = multiprocessing.get_context("forkserver")
_PRELOADED = ["tasks.run", "monai.networks.nets", "monai.transforms", "tests.faults.sabotage"]
_started.set_forkserver_preload(_PRELOADED)


def plan_and_set_up(content: dict[str, Any]) -> Location:
    """Plan a run and set up its store; nothing is computed."""
    output = RunConfig.model_validate(content).output
    run.begin(output, run.write_plan(output, prepared(content)))
    return output


def begin(content: dict[str, Any]) -> tuple[Location, Plan]:
    """Plan a run, set up its store, and fit its artefacts: all that comes before the shards."""
    output = plan_and_set_up(content)
    return output, fit(output, find_again(output, Plan.read(output)), Engines())


def end(output: Location) -> None:
    """Compute results, and finish: all that comes after the shards."""
    compute_results(output, Engines())
    finish(output)


def start(output: Location, folder: Path, shards: Sequence[int] | None = None) -> Any:
    """Start a worker that delivers some shards; None: one that does all that the output lacks, from fits to results."""
    worker = _started.Process(target=_work, args=(output, folder, shards), daemon=True)
    worker.start()
    return worker


def _work(output: Location, folder: Path, shards: Sequence[int] | None) -> None:
    sabotage.install(folder)
    if shards is None:
        run.complete(output, Engines())
    else:
        run.deliver(output, shards, Engines())


def work_through(output: Location, folder: Path) -> int:
    """Start one worker after the other until all is done; return how many died."""
    died = 0
    while not _is_finished(output):
        worker = start(output, folder)
        worker.join()
        died += worker.exitcode != 0
    return died


def _is_finished(output: Location) -> bool:
    try:
        finish(output)
    except Incomplete:
        return False
    return True


def work_together(output: Location, plan: Plan, folder: Path, workers: int, seed: int, kills: int) -> int:
    """Deliver with some workers at once, and kill all of them `kills` times, at moments that are drawn."""
    generator = random.Random(seed)
    died = 0
    while shards := run.begin(output, plan).shards:
        generator.shuffle(shards)
        running = [start(output, folder, shards[number::workers]) for number in range(workers)]
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
