"""The topology in containers: valid, and that of `make up` but for addresses."""

import os
import re
import shutil
import subprocess
from configparser import RawConfigParser
from typing import Any

import pytest
import yaml
from compose_spec import PyCompose

from tests.infra.files import INFRA, SETTINGS

_OURS = ("view", "dask-scheduler", "dask-worker", "prefect-server", "prefect-worker")
_SECRETS = dict.fromkeys(
    (
        "POSTGRES_PASSWORD",
        "AWS_ACCESS_KEY_ID",
        "AWS_SECRET_ACCESS_KEY",
        "COHORTLENS_PSEUDONYM_KEY",
        "COHORTLENS_VIEW_TOKEN",
    ),
    "made-up",
)


def interpolated() -> str:
    """The file with its variables filled in; those without a default must be settings or secrets."""

    def value(found: "re.Match[str]") -> str:
        name, default = found[1], found[2]
        return default if default and name not in SETTINGS else (SETTINGS | _SECRETS)[name]

    return re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?)?\}", value, (INFRA / "compose.yaml").read_text())


@pytest.fixture(scope="module")
def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(interpolated())["services"]
    return found


def test_it_is_what_the_compose_specification_allows(services: dict[str, dict[str, Any]]) -> None:
    PyCompose.from_yaml(yaml.safe_dump(yaml.safe_load(interpolated()), sort_keys=False)).validate()
    assert all(services.keys() >= service.get("depends_on", {}).keys() for service in services.values())
    with pytest.raises(ValueError, match="helthcheck"):
        PyCompose.from_yaml(interpolated().replace("healthcheck", "helthcheck"))


def _has_compose() -> bool:
    return (
        bool(shutil.which("docker"))
        and not subprocess.run(["docker", "compose", "version"], capture_output=True, check=False).returncode
    )


@pytest.mark.skipif(not _has_compose(), reason="no docker client with the compose plugin: not checked by Docker itself")
def test_docker_compose_takes_it() -> None:
    command = ["docker", "compose", "--file", INFRA / "compose.yaml", "--env-file", INFRA / "settings.env", "config"]
    run = subprocess.run(command, env=os.environ | _SECRETS, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr


def test_nothing_is_open_to_the_network_and_ours_have_no_more_rights_than_they_need(
    services: dict[str, dict[str, Any]],
) -> None:
    assert all(port.startswith("127.0.0.1:") for service in services.values() for port in service.get("ports", ()))
    for name in _OURS:
        service = services[name]
        assert service["read_only"] is True and service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["env_file"] == ["settings.env"]


def test_it_is_the_topology_of_make_up(services: dict[str, dict[str, Any]]) -> None:
    """The same programs, told the same but for hosts, folders and names."""
    local = RawConfigParser()
    local.read(INFRA / "local/supervisord.conf")
    commands = {
        section.partition(":")[2]: local[section]["command"]
        for section in local.sections()
        if section.startswith("program:")
    }
    assert services.keys() == commands.keys()
    for name in _OURS:
        here = [*services[name]["entrypoint"], *services[name]["command"]]
        there = commands[name].replace("%(ENV_UP_BIN)s/", "").split()
        assert here[:2] == there[:2]
        same = {"--nthreads", "--pool", "--type"} & set(there)
        for option in same:
            told = re.sub(r"%\(ENV_(\w+)\)s", lambda found: SETTINGS[found[1]], there[there.index(option) + 1])
            assert here[here.index(option) + 1] == told
    assert int(services["dask-worker"]["scale"]) == int(SETTINGS["DASK_WORKERS"])
    flags = {flag.partition("=")[0] for flag in services["seaweedfs"]["command"]}
    assert {"-master.telemetry", "-webdav", "-s3.port", "-s3.port.iceberg"} <= flags
