"""Tasks that share the engines of one process: each asks the network in its turn, whatever becomes of the others."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from models.network import Network
from tasks import run
from tasks.cohort.sources import Source
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store.commit import stamps
from tasks.work.engines import Engines
from tasks.work.fit import fit
from tasks.work.images import find_again
from tests.tasks.outputs import Cohort, prepared, stored

_PATIENCE = 60


class Watched(Engines):
    """Engines of whose network each use is looked at."""

    def network(self, plan: Plan) -> Network:
        assert self.turn.locked(), "another task may ask the network meanwhile"
        return super().network(plan)


def planned(cohort: Cohort, output: Location, **changes: Any) -> Location:
    content = cohort.content(output, **changes)
    run.begin(output, run.write_plan(output, prepared(content)))
    return output


def test_the_network_is_asked_in_turn(cohort: Cohort, output: Location) -> None:
    """Explainers hook layers of the one network: what another task asked meanwhile would answer them, too."""
    planned(cohort, output, explainers=["expected_gradients"], metrics=["deletion"])
    engines = Watched()
    assert fit(output, find_again(output, Plan.read(output)), engines).fits
    run.deliver(output, [0], engines)
    assert not engines.turn.locked()


def test_tasks_of_several_outputs_deliver_as_each_alone(cohort: Cohort, tmp_path: Path) -> None:
    explainers = {"one": ["saliency", "gradcam"], "other": ["input_x_gradient"]}

    def outputs(where: str) -> list[Location]:
        places = {name: Location(url=str(tmp_path / f"{where}-{name}")) for name in explainers}
        return [planned(cohort, place, explainers=explainers[name]) for name, place in places.items()]

    alone, together, engines = outputs("alone"), outputs("together"), Engines()
    for output in alone:
        run.deliver(output, [0, 1, 2], Engines())
    with ThreadPoolExecutor(4) as pool:
        tasks = [pool.submit(run.deliver, output, [shard], engines) for shard in range(3) for output in together]
        for task in tasks:
            task.result(_PATIENCE)
    assert [stored(output) for output in together] == [stored(output) for output in alone]


def _damaged(id: str) -> Source | None:
    raise OSError("storage does not answer")


def _ended() -> None:
    raise OSError("the run has ended")


@pytest.mark.parametrize("broken", [{"find": _damaged}, {"check": _ended}], ids=["reads", "holds the turn"])
def test_a_task_that_fails_leaves_the_turn_to_others(
    broken: dict[str, Callable[..., Any]], cohort: Cohort, output: Location
) -> None:
    planned(cohort, output)
    engines = Engines()
    with ThreadPoolExecutor(2) as pool:
        with engines.turn:  # both wait
            fails = pool.submit(run.deliver, output, [0], engines, **broken)
            works = pool.submit(run.deliver, output, [1], engines)
        with pytest.raises(OSError, match=r"storage does not answer|the run has ended"):
            fails.result(_PATIENCE)
        works.result(_PATIENCE)
    assert [*stamps(output)] == [1]
