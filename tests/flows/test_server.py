"""The embedded server; `tests/faults/test_runs.py` sees it end with the process that started it."""

import subprocess
import sys
from pathlib import Path

import pytest

from flows import server
from flows.errors import Stopped


def test_a_server_that_does_not_start_ends_the_run_with_the_end_of_its_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("the port is taken")
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
        with pytest.raises(Stopped, match=r"(?s)the Prefect server ended; its log .*the port is taken"):
            server._wait(process, "http://127.0.0.1:9/api", log)
