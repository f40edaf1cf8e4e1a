"""The command line's runs as processes of their own, and the Prefect server that knows of them."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.config import RunConfig
from tasks.storage.location import Location
from tasks.store.commit import stamps
from tests.faults import sabotage
from tests.integration.processes import wait

_BIN = Path(sys.executable).parent


class Run:
    """``cohortlens run``, with workers that do what a folder of `tests.faults.sabotage` says."""

    def __init__(self, content: dict[str, Any], folder: Path, server: str | None) -> None:
        self.output: Location = RunConfig.model_validate(content).output
        self.log = folder / f"run-{time.monotonic_ns()}.log"
        config = self.log.with_suffix(".yaml")
        config.write_text(yaml.safe_dump(content, sort_keys=False))
        environment = os.environ | worker_environment(folder) | ({"PREFECT_API_URL": server} if server else {})
        with self.log.open("wb") as sink:
            command = [str(_BIN / "cohortlens"), "run", str(config)]
            self.process = subprocess.Popen(command, env=environment, cwd=folder, stdout=sink, stderr=sink)

    @property
    def said(self) -> str:
        return self.log.read_text()

    @property
    def descendants(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    @property
    def workers(self) -> list[psutil.Process]:
        found = []
        for process in self.descendants:
            with suppress(psutil.NoSuchProcess):
                if process.ppid() != self.process.pid and is_forked(
                    process
                ):  # the other is what workers are forked from
                    found.append(process)
        return found

    def wait_for_commits(self, count: int) -> None:
        wait(lambda: len(stamps(self.output)) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.said

    def end(self) -> int:
        return self.process.wait(600)

    def kill(self) -> None:
        """Leave no process behind, however a test ended."""
        if self.process.poll() is None:
            left = self.descendants
            self.process.kill()
            self.process.wait()
            for process in left:
                with suppress(psutil.NoSuchProcess):
                    process.kill()


def is_forked(process: psutil.Process) -> bool:
    """Tell a process that was forked and has begun nothing of its own, as workers are."""
    parent = process.parent()
    return parent is not None and process.cmdline() == parent.cmdline()


def worker_environment(folder: Path) -> dict[str, str]:
    return {
        sabotage.FOLDER: str(folder),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.faults.sabotage"]',
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    }


class PrefectServer:
    """A server that can be killed, and started again at the same address with the same database."""

    def __init__(self, home: Path, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/api"
        self._command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1", "--port", str(port)]
        self._home = home

    def start(self) -> None:
        environment = os.environ | {"PREFECT_HOME": str(self._home)}
        with (self._home / "log").open("ab") as sink:
            self._process = subprocess.Popen(
                self._command, env=environment, stdout=sink, stderr=sink, start_new_session=True
            )
        wait(self._answers, 180)

    def kill(self) -> None:
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def _answers(self) -> bool:
        try:
            return bool(self.ask("health"))
        except OSError:
            return False

    def ask(self, path: str, content: dict[str, Any] | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(f"{self.url}/{path}", data, {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return json.load(answer)

    def latest(self) -> Any:
        return self.ask("flow_runs/filter", {"sort": "START_TIME_DESC", "limit": 1})[0]
