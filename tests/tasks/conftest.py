"""Outputs to work on: planned, set up and explained without Prefect or Dask."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flows.config import RunConfig
from flows.demo import demo_content
from tasks import manifest, store
from tasks.plan import Plan
from tasks.prepare import prepare
from tasks.storage import Location

Planned = Callable[..., Plan]


@pytest.fixture
def planned(slices: Path) -> Planned:
    """Plan and set up a run of the slices at an output."""

    def plan_run(output: Location, **changes: Any) -> Plan:
        content = demo_content(str(slices), output.url, spatial_dims=2) | changes
        config = RunConfig.model_validate(content)
        prepared = prepare(
            cohort=config.cohort,
            model=config.model,
            explainers=config.explainers,
            target=config.target,
            batch_size=8,
            workers=1,
            threads=1,
            memory_limit=None,
        )
        manifest.write(output, prepared.entries, prepared.plan.images_per_shard)
        prepared.plan.write(output)
        store.set_up(output, prepared.plan, prepared.entries, run_id="test")
        return prepared.plan

    return plan_run
