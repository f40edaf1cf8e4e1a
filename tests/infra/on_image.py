"""`make images`: the image is built, and explains the demo cohort as nobody special with a root that is read-only."""

import json

import pytest

from tests.infra.container_site import build_image, say, set_up

_CONFINED = (
    *("--init", "--read-only", "--read-only-tmpfs=false", "--tmpfs=/scratch:mode=1777"),
    *("--cap-drop=ALL", "--security-opt=no-new-privileges", "--network=none"),
)
"""The rights of compose.yaml, without a network, and without the other folders that podman lets be written."""


@pytest.fixture(scope="module", autouse=True)
def image() -> None:
    set_up()
    build_image()


@pytest.mark.timeout(1800)
def test_the_demo_runs_in_it_and_its_viewer_is_there() -> None:
    script = """
set -e
if touch /tmp/written /opt/written 2>/dev/null; then echo "the root can be written"; exit 9; fi
id --user
cohortlens demo --images 24
test -s out/demo/viewer/index.html
cohortlens verify out/demo
ls --almost-all /scratch
"""
    said = say("podman", "run", "--rm", *_CONFINED, "--entrypoint=sh", "cohortlens:cpu", "-c", script)
    assert "1001" in said.split()
    left = set(said.rpartition("print(ds)")[2].split())
    assert {"dask", "matplotlib", "out", "prefect"} <= left


def test_it_holds_nothing_of_how_packages_came_into_it() -> None:
    """The settings of pip and npm of this machine were there while it was built, and no longer."""
    files = "cat /etc/pip.conf /root/.npmrc 2>/dev/null || true; find /root -type f -size +0; find /opt -name '*.whl'"
    said = say("podman", "run", "--rm", "--user=0", "--network=none", "--entrypoint=sh", "cohortlens:cpu", "-c", files)
    own = (".bashrc", ".profile")
    assert [line for line in said.splitlines() if not line.endswith(own) and "level=" not in line] == []
    (told,) = json.loads(say("podman", "image", "inspect", "cohortlens:cpu"))
    assert told["User"] == "1001:1001"
    assert not [value for value in told["Config"]["Env"] if value.startswith(("PIP_", "npm_"))]
