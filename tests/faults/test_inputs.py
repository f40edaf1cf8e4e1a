"""Inputs that vanish or change between the plan and their being read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models.errors import ConfigurationError
from tasks import run
from tasks.plan.plan import Plan
from tasks.storage.location import Location
from tasks.store import template
from tasks.work.engines import Engines
from tasks.work.finish import summarise
from tests.faults.conftest import FEW, Measured
from tests.faults.workers import begin, end, plan_and_set_up
from tests.tasks.outputs import Cohort, carry_out

IMAGES = FEW
VICTIMS = (1, 6, 7, 22)


def vanish(path: Path) -> None:
    path.unlink()


def become_another(path: Path) -> None:
    shutil.copy(path.with_name("2.npy"), path)


def be_cut_short(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize("change", [vanish, become_another, be_cut_short])
def test_inputs_change_and_come_back(
    change: Any,
    cohort: Cohort,
    content: Any,
    local: Location,
    explained: list[int],
    measured: Measured,
) -> None:
    output, plan = begin(content(local))
    kept = {number: (cohort.folder / f"{number}.npy").read_bytes() for number in VICTIMS}
    try:
        for number in VICTIMS:
            change(cohort.folder / f"{number}.npy")
        run.deliver(output, range(len(plan.shards)), Engines())
    finally:
        for number, data in kept.items():
            (cohort.folder / f"{number}.npy").write_bytes(data)
    end(output)
    assert summarise(output).quarantined == len(VICTIMS)

    # Nothing else is touched, and nothing is explained under another's name.
    found = template.open_store(output).load()
    others = [row for row in range(IMAGES) if row not in VICTIMS]
    assert (found.status.values[list(VICTIMS)] == template.QUARANTINED).all()
    assert np.isnan(found.attribution.values[list(VICTIMS)]).all()
    assert (found.status.values[others] == template.EXPLAINED).all()

    carry_out(content(output))
    measured(
        f"inputs {change.__name__.replace('_', ' ')}, and come back", len(VICTIMS), [output], sum(explained) / IMAGES
    )


@pytest.mark.parametrize("change", [vanish, become_another, be_cut_short])
def test_inputs_of_a_fit_change_and_come_back(
    change: Any, cohort: Cohort, content: Any, local: Location, explained: list[int], measured: Measured
) -> None:
    """Nothing is explained with an artefact that is another than the planned one."""
    output = plan_and_set_up(content(local))
    victim = cohort.folder / f"{Plan.read(output).fits[0].images[-1].removeprefix('id-')}.npy"
    kept = victim.read_bytes()
    try:
        change(victim)
        with pytest.raises(ConfigurationError, match=r"cannot be read any more .* restore it, or run again"):
            run.complete(output, Engines())
    finally:
        victim.write_bytes(kept)
    assert explained == []
    carry_out(content(output))
    case = f"inputs of a fit {change.__name__.replace('_', ' ')}, and come back"
    measured(case, 1, [output], sum(explained) / IMAGES)
