"""The embedded server, which ends with the process that started it."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil

from tests.faults.runs import wait

_STARTS_A_SERVER = """
import time
from flows.server import prefect_server

with prefect_server() as server_url:
    print(server_url(), flush=True)
    time.sleep(600)
"""


def test_a_server_does_not_outlive_the_process_that_started_it_however_that_ends(tmp_path: Path) -> None:
    run = subprocess.Popen(
        [sys.executable, "-c", _STARTS_A_SERVER],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
        | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
    )
    assert run.stdout
    assert b"http" in run.stdout.readline()
    servers = psutil.Process(run.pid).children(recursive=True)
    assert servers
    run.send_signal(signal.SIGKILL)
    run.wait()
    wait(lambda: not any(server.is_running() and server.status() != "zombie" for server in servers), 60)
