"""Inputs that vanish or change between the plan and their being read."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tasks.storage.location import Location
from tasks.store import template
from tasks.work.finish import finish
from tests.faults.conftest import IMAGES, Measured
from tests.faults.workers import begin
from tests.tasks.outputs import Cohort, carry_out

VICTIMS = (1, 6, 7, 50)


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
        explained(output, range(len(plan.shards)))
    finally:
        for number, data in kept.items():
            (cohort.folder / f"{number}.npy").write_bytes(data)
    assert finish(output).quarantined == len(VICTIMS)

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
