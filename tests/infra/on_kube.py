"""A part of `make compose-check`: podman starts a pod of infra/kubernetes, without a cluster or an operator."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.e2e.topology import wait
from tests.infra.container_site import build_image, say, set_up
from tests.infra.files import SETTINGS
from tests.infra.test_kubernetes import pods

_HEALTH = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8787/health', timeout=4)"


@pytest.fixture(scope="module")
def scheduler(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The container of Dask's scheduler, of the Deployment that the operator makes of dask-cpu.yaml."""
    from dask_kubernetes.operator.controller.controller import build_scheduler_deployment_spec

    set_up()
    build_image()
    spec = pods("cpu")["scheduler"]
    say("podman", "tag", "cohortlens:cpu", spec["containers"][0]["image"])
    settings = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "cohortlens-settings"}, "data": SETTINGS}
    made = build_scheduler_deployment_spec("cohortlens-cpu", spec, {}, {})
    file: Path = tmp_path_factory.mktemp("kube") / "scheduler.yaml"
    file.write_text(yaml.safe_dump_all([settings, made]))
    try:
        say("podman", "kube", "play", str(file))
        named = subprocess.check_output(["podman", "ps", "--format", "{{.Names}}", "--noheading"], text=True)
        yield next(name for name in named.split() if name.endswith("-scheduler"))
    finally:
        say("podman", "kube", "down", str(file), check=False)


@pytest.mark.timeout(1800)
def test_the_schedulers_pod_answers_under_the_rights_that_it_states(scheduler: str) -> None:
    def runs(*command: str) -> bool:
        return not subprocess.run(["podman", "exec", scheduler, *command], capture_output=True, check=False).returncode

    wait(lambda: runs("python", "-c", _HEALTH))
    assert runs("sh", "-c", 'test "$(id --user)" = 1001 && touch /scratch/written')
    assert runs("sh", "-c", '! touch /opt/written && test "$WORK_POOL" = cohortlens')
    for right in ("^NoNewPrivs:.1$", "^CapBnd:.0*$"):
        assert runs("grep", "--quiet", right, "/proc/1/status")
