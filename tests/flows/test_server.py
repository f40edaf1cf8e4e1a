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


_DOES_OTHER_THINGS = """
import fcntl, time
from pathlib import Path
from flows.server import prefect_server

with prefect_server(), Path(".cohortlens/prefect-server.lock").open() as starting:
    for _ in range(600):
        try:
            print(fcntl.flock(starting, fcntl.LOCK_EX | fcntl.LOCK_NB))
            break
        except BlockingIOError:
            time.sleep(0.1)
"""


def test_others_start_before_a_command_asks_for_its_server(tmp_path: Path) -> None:
    """The demo writes its cohort first, which may take minutes."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
    ran = subprocess.run(
        [sys.executable, "-c", _DOES_OTHER_THINGS],
        cwd=tmp_path,
        env=environment | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        stdout=subprocess.PIPE,
        check=True,
        text=True,
    )
    assert ran.stdout == "None\n"


_TWO_AT_ONCE = """
import sys, time, urllib.error, urllib.request
from pathlib import Path
from flows.server import prefect_server

def status(url, *headers):
    try:
        return urllib.request.urlopen(urllib.request.Request(url, b"{}", dict(headers))).status
    except urllib.error.HTTPError as error:
        return error.code

with prefect_server() as server_url:
    url = server_url() + "/flow_runs/count"
    from prefect.client.orchestration import get_client
    with get_client(sync_client=True) as client:
        ours = client.read_flow_runs()
    (password,) = Path(".cohortlens").glob("prefect-password-" + url.split(":")[2].split("/")[0])
    modes = [oct(path.stat().st_mode)[-3:] for path in (Path(".cohortlens"), password)]
    print(ours, status(url), status(url, ("Authorization", "Basic eDp5")), *modes, flush=True)
    sys.stdin.readline()
"""


def test_two_servers_of_one_folder_start_at_once_and_answer_nobody_else(tmp_path: Path) -> None:
    """Their first start makes one database."""
    (tmp_path / ".cohortlens").mkdir(mode=0o755)
    runs = [
        subprocess.Popen(
            [sys.executable, "-c", _TWO_AT_ONCE],
            cwd=tmp_path,
            env={name: value for name, value in os.environ.items() if not name.startswith("PREFECT")}
            | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for run in runs:
        assert run.stdout
        assert run.stdout.readline().split("] ")[-1].split() == ["401", "401", "700", "600"]
        servers = psutil.Process(run.pid).children(recursive=True)
        assert not any("cohortlens:" in word for server in servers for word in server.cmdline())
    for run in runs:
        run.communicate("end\n", timeout=60)
        assert run.returncode == 0
    assert not list((tmp_path / ".cohortlens").glob("prefect-password-*"))


def test_a_server_that_does_not_start_ends_the_run_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the port is taken")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(Stopped, match=r"(?s)the Prefect server ended; its log .*the port is taken"):
            server._wait(process, "http://127.0.0.1:9/api", log)
