"""One Prefect server for one run: started before it, stopped after it."""

import fcntl
import gc
import os
import runpy
import secrets
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.environment import environment
from flows.errors import Stopped

HOME = Path(".cohortlens")
_START_SECONDS = 180
_LOOK_SECONDS = 0.2
_RETRIES = "7"
"""Retries of a request to the server; the waits between them, 2, 4, 8… s, are more than four minutes together."""

_SERVICES = "cancellation_cleanup foreman late_runs pause_expirations scheduler triggers"
_UNNEEDED = [f"PREFECT_SERVER_SERVICES_{name.upper()}_ENABLED" for name in _SERVICES.split()]
"""Services of deployments, schedules and automations, of which the server of one run has none; each polls."""


def keep_inside(home: Path) -> None:
    """Make everything that this process and its children leave on disk lie in `home`, and what they log be of use.

    Call it before Prefect and Dask's `distributed` are imported; `dask` itself, which xarray imports, may be there.
    """
    home = home.resolve()
    _keep_private(home)
    os.environ.setdefault("PREFECT_HOME", str(home / "prefect"))
    os.environ.setdefault("DASK_CONFIG", str(home / "dask"))
    os.environ.setdefault("DASK_TEMPORARY_DIRECTORY", str(home / "dask-scratch"))
    os.environ.setdefault("MPLCONFIGDIR", str(home / "matplotlib"))
    os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
    os.environ.setdefault("PREFECT_LOGGING_EXTRA_LOGGERS", "cohortlens,tasks,models")
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    os.environ.setdefault("PREFECT_CLIENT_MAX_RETRIES", _RETRIES)
    os.environ.setdefault("PREFECT_CLIENT_SERVER_VERSION_CHECK_ENABLED", "false")  # or no task begins if it is away
    os.environ.setdefault("DASK_LOGGING__DISTRIBUTED", "warning")
    os.environ.setdefault("DO_NOT_TRACK", "1")
    if dask := sys.modules.get("dask"):
        dask.config.refresh()


@contextmanager
def prefect_server(home: Path = HOME) -> Iterator[Callable[[], str]]:
    """Use the server that ``PREFECT_API_URL`` names; if it names none, run one, on SQLite in `home`, for the body.

    It starts in the background. The function that is yielded waits until the server answers, and returns its API's
    URL, which the environment names at once, so that Prefect can be imported meanwhile. A server that is run here
    answers on loopback, and only to whoever sends the password that is made for it: processes below this one know it
    from their environment, people find it in
    ``prefect-password-<port>`` in `home`.

    Raises
    ------
    Stopped
        From the call, if the server ends or does not answer in time, with the end of its log.
    """
    keep_inside(home)
    given = os.environ.get("PREFECT_API_URL")
    if given:
        yield lambda: given
        return
    port, password = _free_port(), f"cohortlens:{secrets.token_urlsafe(24)}"
    url = f"http://127.0.0.1:{port}/api"
    shown, log = password_file(url, home), home / "prefect-server.log"
    with environment({"PREFECT_API_URL": url, "PREFECT_API_AUTH_STRING": password}):
        server = _start(home, port, password, shown, log)
        handler = _end_in_order()
        try:
            yield lambda: _wait(server, url, log)
        finally:
            if handler is not None:
                signal.signal(signal.SIGTERM, handler)
            _end(server)
            shown.unlink(missing_ok=True)


def _start(home: Path, port: int, password: str, shown: Path, log: Path) -> "subprocess.Popen[bytes]":
    """Start a server as soon as no other starts in `home`: two that make one database at once would fail."""
    prefect = f"server start --host 127.0.0.1 --port {port}".split()
    with (home / "prefect-server.lock").open("w") as starting:
        fcntl.flock(starting, fcntl.LOCK_EX)  # the server releases it
        lock = starting.fileno()
        _write_private(shown, password)
        log.unlink(missing_ok=True)  # a server that runs already keeps its own
        with log.open("wb") as sink:
            return subprocess.Popen(
                [sys.executable, "-m", "flows.server", str(lock), *prefect],
                env=dict.fromkeys(_UNNEEDED, "false") | os.environ | {"PREFECT_SERVER_API_AUTH_STRING": password},
                stdin=subprocess.PIPE,
                stdout=sink,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                pass_fds=[lock],
            )


def _end(server: "subprocess.Popen[bytes]") -> None:
    server.terminate()
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def password_file(url: str, home: Path = HOME) -> Path:
    """Name the file that holds the password of a server while `prefect_server` runs it."""
    return home / f"prefect-password-{urlsplit(url).port}"


def _keep_private(home: Path) -> None:
    """Make a folder that nobody else can list: it holds logs, a database of runs, and what workers spill."""
    home.mkdir(mode=0o700, parents=True, exist_ok=True)
    if home.stat().st_mode & 0o066:
        with suppress(PermissionError):  # a volume that is lent to us is its owner's to protect
            home.chmod(0o700)


def _write_private(file: Path, text: str) -> None:
    file.unlink(missing_ok=True)
    with open(os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as opened:
        opened.write(text)


def _end_in_order() -> Any:
    """Let SIGTERM end this process by an exception, or the server would live on; returns what it did before."""
    if threading.current_thread() is not threading.main_thread():
        return None

    def end(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    return signal.signal(signal.SIGTERM, end)


def _end_with_parent() -> None:
    """End this process when the one that started it is gone, however that ended: its end of the pipe closes then."""

    def wait() -> None:
        sys.stdin.buffer.read()
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _let_others_start(lock: int) -> None:
    """Release the lock of starts as soon as this server answers, whatever the process that started it does."""
    os.set_inheritable(lock, False)

    def wait() -> None:
        while not _answers(os.environ["PREFECT_API_URL"]):
            time.sleep(_LOOK_SECONDS)
        os.close(lock)

    threading.Thread(target=wait, daemon=True).start()


def _wait(server: "subprocess.Popen[bytes]", url: str, log: Path) -> str:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        if _answers(url):
            return url
        time.sleep(_LOOK_SECONDS)
    state = "ended" if server.poll() is not None else f"did not answer in {_START_SECONDS} s"
    raise Stopped(f"the Prefect server {state}; its log {log} ends:\n{log.read_text()[-2000:]}")


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/health", timeout=5):
            return True
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


if __name__ == "__main__":  # Prefect's own command line
    gc.set_threshold(50_000)  # what is imported stays: to look for garbage in it takes a tenth of the start
    _end_with_parent()
    _let_others_start(int(sys.argv.pop(1)))
    runpy.run_module("prefect", run_name="__main__", alter_sys=True)
