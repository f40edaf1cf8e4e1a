"""`make compose-check`: the topology in containers is started, deploys, runs, shows what came of it, and stops."""

import os
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tasks.demo.cohort import write_cohort
from tasks.upkeep.verify import verify
from tests.e2e.topology import Topology, wait
from tests.infra.container_site import build_image, build_standins, say, set_up
from tests.infra.files import CHECKOUT, INFRA

_SERVICES = ("postgres", "seaweedfs", "view", "dask-scheduler", "dask-worker", "prefect-server", "prefect-worker")
_TOKEN = "made-up-" * 5
_SECRETS = {
    "POSTGRES_PASSWORD": "made-up",
    "AWS_ACCESS_KEY_ID": "made-up-name",
    "AWS_SECRET_ACCESS_KEY": "made-up-secret",
    "COHORTLENS_PSEUDONYM_KEY": "made-up-key-of-pseudonyms",
    "COHORTLENS_VIEW_TOKEN": _TOKEN,
}


class Containers(Topology):
    """The topology of compose.yaml, on ports of its own."""

    def compose(self, *arguments: str) -> str:
        file = self.home / "settings.env"  # podman-compose reads one file of variables, not several
        told = self.environment | _SECRETS
        file.write_text((INFRA / "settings.env").read_text() + "".join(f"{k}={v}\n" for k, v in told.items()))
        program = str(Path(sys.executable).with_name("podman-compose"))
        return say(program, "--file", str(INFRA / "compose.yaml"), "--env-file", str(file), *arguments)

    def containers(self, service: str = "") -> list[str]:
        labels = "label=com.docker.compose.project=cohortlens", f"label=com.docker.compose.service={service}"
        filters = [f"--filter={label}" for label in labels[: 2 if service else 1]]
        asked = subprocess.run(
            ["podman", "ps", "--all", "--quiet", *filters], capture_output=True, text=True, check=True
        )
        return asked.stdout.split()

    def wait_until_well(self) -> None:
        """Run the health checks; podman leaves that to systemd, which may not be there."""
        for service in _SERVICES:
            for container in self.containers(service):
                check = ["podman", "healthcheck", "run", container]
                wait(lambda command=check: not subprocess.run(command, capture_output=True, check=False).returncode)


@pytest.fixture(scope="module")
def day(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Containers]:
    set_up()
    build_image()
    build_standins()
    topology = Containers(tmp_path_factory.mktemp("containers"))
    os.environ |= _SECRETS
    topology.compose("down", "--volumes")
    try:
        yield topology
    finally:
        topology.compose("down", "--volumes")


@pytest.mark.timeout(1800)
def test_all_services_become_well(day: Containers) -> None:
    day.compose("up", "--detach", "--no-build")
    day.wait_until_well()
    assert {service: len(day.containers(service)) for service in _SERVICES} == dict.fromkeys(_SERVICES, 1) | {
        "dask-worker": 2
    }
    page = urllib.request.urlopen(day.api.removesuffix("api"), timeout=10).read()
    assert b"<title>Prefect" in page  # it needs a folder that can be written


@pytest.mark.timeout(600)
def test_a_deployment_runs_and_its_links_lead_to_report_and_viewer(day: Containers, tmp_path: Path) -> None:
    addresses = {
        "PREFECT_API_URL": day.api,
        "S3_ENDPOINT_URL": f"http://seaweedfs:{day.environment['S3_PORT']}",
        "DASK_SCHEDULER_ADDRESS": f"tcp://dask-scheduler:{day.environment['DASK_SCHEDULER_PORT']}",
        "COHORTLENS_CHECKOUT": "/opt/cohortlens",
    }
    subprocess.run([sys.executable, "-m", "deployments"], env=day.environment | addresses, cwd=CHECKOUT, check=True)
    write_cohort(tmp_path, images=24, spatial_dims=2, damaged=0)
    for path in tmp_path.glob("phantom-*"):
        day.at(f"s3://cohorts/demo/{path.name}").write(path.read_bytes())
    run = day.start("explain-cohort/explain-backfill")
    assert day.end(run) == "COMPLETED"
    assert verify(day.at("s3://results/demo")) == []
    shown = day.artifacts(run)
    for key, link in (("report", "report/index.html"), ("viewer", "viewer/index.html"), ("cases", "report/cases.png")):
        (address,) = re.findall(r"https?://[^)\s]+", shown[key])
        assert address == f"http://127.0.0.1:{day.environment['VIEW_PORT']}/{_TOKEN}/demo/{link}"
        assert urllib.request.urlopen(address, timeout=10).status == 200


@pytest.mark.timeout(300)
def test_it_stops_and_what_is_stored_is_there_when_it_starts_again(day: Containers) -> None:
    day.compose("down")
    assert day.containers() == []
    day.compose("up", "--detach", "--no-build", "seaweedfs")
    day.wait_until_well()
    assert verify(day.at("s3://results/demo")) == []
