"""The image: what it takes in, what it sets, and whether its health check can tell."""

import json
import re
import socket
import subprocess
import sys

from flows.forked import worker_environment
from tests.infra.files import CHECKOUT, IMAGE, image_environment


def test_it_runs_as_nobody_special_and_writes_into_scratch_alone() -> None:
    assert re.findall(r"^USER (.*)$", IMAGE, re.MULTILINE) == ["1001:1001"]
    assert re.findall(r"^WORKDIR (.*)$", IMAGE, re.MULTILINE)[-1] == "/scratch"
    environment = image_environment()
    for name in ("HOME", "TMPDIR", "PREFECT_HOME", "DASK_TEMPORARY_DIRECTORY", "MPLCONFIGDIR"):
        assert environment[name].startswith("/scratch")


def test_its_workers_have_the_environment_of_local_ones() -> None:
    expected = worker_environment(threads=1)
    assert {name: image_environment()[name] for name in expected} == expected


def test_it_takes_in_what_the_program_needs_and_nothing_else() -> None:
    """Everything that is copied is there, let through by .dockerignore, and the packages are all."""
    copied = {name for line in re.findall(r"^COPY (?!--from)(.*) \S+$", IMAGE, re.MULTILINE) for name in line.split()}
    allowed = {
        line.removeprefix("!") for line in (CHECKOUT / ".dockerignore").read_text().splitlines() if line.startswith("!")
    }
    assert copied == allowed
    assert all((CHECKOUT / name).exists() for name in copied)
    packages = {path.parent.name for path in CHECKOUT.glob("*/__init__.py")} - {"tests"}
    assert packages <= copied


def test_its_health_check_tells_a_process_that_answers_from_one_that_does_not() -> None:
    (check,) = re.findall(r"^ +CMD (\[.*\])$", IMAGE, re.MULTILINE)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, *json.loads(check.replace("8787", str(port)))[1:]]
    assert subprocess.run(command, capture_output=True, check=False).returncode != 0
    code = f"""
import asyncio, subprocess, sys, json
from distributed import Scheduler
async def main():
    async with Scheduler(port=0, host="127.0.0.1", dashboard_address="127.0.0.1:{port}"):
        check = await asyncio.create_subprocess_exec(*json.loads(sys.argv[1]))
        return await check.wait()
sys.exit(asyncio.run(main()))
"""
    assert subprocess.run([sys.executable, "-c", code, json.dumps(command)], check=False).returncode == 0
