"""The embedded server, which ends with the process that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from flows import server
from flows.errors import Stopped
from tests.integration.processes import wait

_STARTS_A_SERVER = """
import time
from flows.server import prefect_server

with prefect_server():
    print("started", flush=True)
    time.sleep(600)
"""


def test_a_server_does_not_outlive_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    """The server need not answer for that; `tests/faults/test_runs.py` sees one end that does."""
    run = subprocess.Popen(
        [sys.executable, "-c", _STARTS_A_SERVER],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
    )
    assert run.stdout
    assert run.stdout.readline() == b"started\n"
    servers = psutil.Process(run.pid).children(recursive=True)
    assert servers
    wait(lambda: servers[0].cpu_times().user > 0.5)  # it is not Python that is starting, but Prefect
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait(lambda: not any(server.is_running() and server.status() != "zombie" for server in servers), 60)


def test_a_server_that_does_not_start_ends_the_run_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the port is taken")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(Stopped, match=r"(?s)the Prefect server ended; its log .*the port is taken"):
            server._wait(process, "http://127.0.0.1:9/api", log)
