"""The content of what `make deploy` registers, checked without a server: `make e2e` has one."""

import os
import re
from importlib import import_module
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from prefect.events.schemas.automations import AutomationCore
from prefect.utilities.templating import apply_values

from deployments.__main__ import without_unset
from flows.config import RunConfig

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "deployments"
MADE_BY_UP = {"COHORTLENS_CHECKOUT": str(ROOT), "S3_ENDPOINT_URL": "http://127.0.0.1:1"}
MADE_BY_UP |= {"DASK_SCHEDULER_ADDRESS": "tcp://127.0.0.1:1"}


@pytest.fixture(scope="module")
def settings() -> dict[str, str]:
    from dotenv import dotenv_values

    return {name: value or "" for name, value in dotenv_values(ROOT / "infra/settings.env").items()} | MADE_BY_UP


def read(name: str, values: dict[str, str]) -> Any:
    """As `make deploy` reads a file, in an environment of `values`."""
    with patch.dict(os.environ, values, clear=True):
        content = without_unset(yaml.safe_load((FOLDER / name).read_text()))
        return apply_values(content, os.environ, remove_notset=False)


@pytest.mark.parametrize("name", ["prefect.yaml", "automations.yaml"])
def test_every_variable_is_a_setting_or_made_by_make_up(name: str, settings: dict[str, str]) -> None:
    assert set(re.findall(r"{{ \$(\w+) }}", (FOLDER / name).read_text().partition("\nname:")[2])) <= settings.keys()


@pytest.mark.parametrize("elsewhere", [False, True])
def test_deployments_have_a_flow_that_takes_their_parameters(elsewhere: bool, settings: dict[str, str]) -> None:
    """Also without the variables of `make up`, as on Amazon's S3 with a Dask cluster that each run starts."""
    known = {name: value for name, value in settings.items() if not elsewhere or name not in MADE_BY_UP}
    deployments = read("prefect.yaml", known)["deployments"]
    assert len({deployment["name"] for deployment in deployments}) == len(deployments) == 5
    for deployment in deployments:
        module, _, name = deployment["entrypoint"].rpartition(".")
        flow = getattr(import_module(module), name)
        parameters = flow.validate_parameters(deployment.get("parameters", {}))
        assert {"cohortlens"} <= set(deployment["tags"])
        if config := parameters.get("config"):
            assert not isinstance(config, RunConfig) or (config.compute.scheduler is None) == elsewhere


def test_deployments_of_one_output_share_a_queue(settings: dict[str, str]) -> None:
    queues: dict[str, set[str]] = {}
    for deployment in read("prefect.yaml", settings)["deployments"]:
        parameters = deployment.get("parameters", {})
        if output := parameters.get("output") or parameters.get("config", {}).get("output"):
            queues.setdefault(output["url"], set()).add(deployment["work_pool"]["work_queue_name"])
    assert [len(queue) for queue in queues.values()] == [1]


def test_a_late_nightly_run_does_the_work_of_its_night(settings: dict[str, str]) -> None:
    (nightly,) = (one for one in read("prefect.yaml", settings)["deployments"] if one["name"] == "explain-nightly")
    assert nightly["parameters"]["only"] == {"modified_before": "scheduled"}


def test_automations_are_ones_that_prefect_knows(settings: dict[str, str]) -> None:
    for automation in read("automations.yaml", settings)["automations"]:
        automation["trigger"]["within"] = float(automation["trigger"].get("within", 0))
        assert automation.pop("notify", False) != bool(automation.get("actions"))
        AutomationCore.model_validate({"actions": []} | automation)
