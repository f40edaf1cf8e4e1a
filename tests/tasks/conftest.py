"""Outputs to work on: planned, set up and explained without Prefect or Dask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from flows.config import RunConfig
from flows.demo import demo_content
from tasks.plan import shards as shards_module
from tasks.plan.plan import Plan
from tasks.prepare.prepare import prepare
from tasks.storage.location import Location
from tasks.store.template import open_store, set_up
from tasks.upkeep.verify import verify
from tasks.work.engines import Engines
from tasks.work.explain import explain_shards
from tasks.work.finish import finish
from tasks.work.fit import fit
from tasks.work.images import find_again
from tests.tasks.outputs import Cohort

Planned = Callable[..., Plan]

SQUARES = 20
CONSTANT, WITHOUT_MASK, EMPTY_MASK = 3, 5, 7


@pytest.fixture
def cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cohort:
    """Ten pictures in shards of four."""
    monkeypatch.setattr(shards_module, "_LARGEST_SHARD", 4)
    return Cohort(tmp_path / "cohort", range(10))


@pytest.fixture
def output(tmp_path: Path) -> Location:
    """A place for the output of a run, where nothing is yet."""
    return Location(url=str(tmp_path / "out"))


@pytest.fixture
def planned(slices: Path) -> Planned:
    """Plan and set up a run of the slices at an output."""

    def plan_run(output: Location, **changes: Any) -> Plan:
        content = demo_content(str(slices), output.url, spatial_dims=2) | changes
        config = RunConfig.model_validate(content)
        prepared = prepare(config.recipe.model_copy(update={"batch_size": 8, "metrics": ()}))
        prepared.plan.write(output, prepared.entries)
        set_up(output, prepared.plan, prepared.entries)
        return prepared.plan

    return plan_run


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """The manifest of 20 noisy pictures of 16 x 16, in two shards, with masks; three are not like the others."""
    folder = tmp_path / "squares"
    folder.mkdir()
    generator = np.random.default_rng(5)
    rows: list[dict[str, str]] = []
    for number in range(SQUARES):
        mask = np.zeros((16, 16), bool)
        mask[number % 8 :, 4:12] = number != EMPTY_MASK
        pixels = generator.normal(size=(16, 16)).astype(np.float32) + 2 * mask
        np.save(folder / f"{number}.npy", np.ones_like(pixels) if number == CONSTANT else pixels)
        np.save(folder / f"{number}-mask.npy", mask.astype(np.uint8))
        has_mask = number != WITHOUT_MASK
        rows.append({"id": f"square-{number}", "uri": f"{number}.npy", "mask": f"{number}-mask.npy" * has_mask})
    pd.DataFrame(rows).to_csv(folder / "manifest.csv", index=False)
    return folder / "manifest.csv"


def delivered_squares(output: Location, plan: Plan) -> xr.Dataset:
    """Explain all, finish and verify; the second shard first, by a worker that has just started."""
    engines = Engines()
    if not plan.fitted:
        fit(output, find_again(output, plan), engines)
    for shard in reversed(plan.shards):
        explain_shards(output, [shard.index], engines)
    assert finish(output).pending == 0
    assert verify(output) == []
    return open_store(output).load()
