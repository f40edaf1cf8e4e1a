"""The command line's runs as processes of their own, and what they run on: Prefect's server, a Dask cluster."""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from flows.config import RunConfig
from tasks.storage.location import Location
from tasks.store.commit import stamps
from tests.faults import sabotage

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
                if "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def wait_for_commits(self, count: int) -> None:
        wait(lambda: len(stamps(self.output)) >= count or self.process.poll() is not None)
        assert self.process.poll() is None, self.said

    def end(self) -> int:
        return self.process.wait(200)


def worker_environment(folder: Path) -> dict[str, str]:
    return {
        sabotage.FOLDER: str(folder),
        "DASK_DISTRIBUTED__WORKER__PRELOAD": '["tests.faults.sabotage"]',
        "DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "5s",
    }


def wait(condition: Callable[[], bool], seconds: float = 120) -> float:
    """Wait for something; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "did not happen in time"
        time.sleep(0.05)
    return time.monotonic() - began


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


@contextmanager
def cluster(folder: Path, workers: int) -> Iterator[tuple[str, "subprocess.Popen[bytes]"]]:
    """A Dask scheduler and its workers, each started as on a machine of its own: the address, and the scheduler."""
    file = folder / "scheduler.json"
    environment = os.environ | worker_environment(folder)
    common = ["--scheduler-file", str(file)]
    with ExitStack() as started, (folder / "cluster.log").open("wb") as sink:

        def start(*arguments: str) -> "subprocess.Popen[bytes]":
            command = [str(_BIN / "dask"), *arguments]
            process = subprocess.Popen(command, env=environment, cwd=folder, stdout=sink, stderr=sink)
            started.callback(_end, process)
            return process

        scheduler = start("scheduler", *common, "--host", "127.0.0.1", "--port", "0", "--no-dashboard")
        wait(file.exists)
        for _ in range(workers):
            start("worker", *common, "--nthreads", "1", "--no-dashboard", "--local-directory", str(folder))
        wait(lambda: bool(file.read_text()))
        yield json.loads(file.read_text())["address"], scheduler


def _end(process: "subprocess.Popen[bytes]") -> None:
    for other in [process, *_descendants(process.pid)]:
        with suppress(psutil.NoSuchProcess, ProcessLookupError):
            other.kill()
    process.wait()


def _descendants(pid: int) -> list[psutil.Process]:
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []
