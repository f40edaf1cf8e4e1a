"""`make up` on ports and in a folder of its own, and what a user does with it."""

import json
import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from xmlrpc.client import ServerProxy

import psutil
from dotenv import dotenv_values
from supervisor.xmlrpc import SupervisorTransport

from tasks.storage.location import Location
from tests.seaweedfs import free_ports

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE = max(1.0, os.getloadavg()[0] / (os.cpu_count() or 1))
"""Times are for a machine that has nothing else to do; on a busy one, the tests wait longer."""

ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


class Topology:
    """Started by `up`, stopped by `down`."""

    def __init__(self, home: Path, **settings: str) -> None:
        names = ("S3_PORT", "S3_MASTER_PORT", "S3_VOLUME_PORT", "S3_FILER_PORT", "S3_ADMIN_PORT", "POSTGRES_PORT")
        names = (*names, "PREFECT_PORT", "DASK_SCHEDULER_PORT", "DASK_DASHBOARD_PORT", "VIEW_PORT")
        ports = dict(zip(names, map(str, free_ports(len(names))), strict=True))
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "PYTHONPATH") if name in os.environ}
        self.environment = kept | ports | settings | {"UP_HOME": str(home)}
        self.home = home
        self.endpoint = f"http://127.0.0.1:{ports['S3_PORT']}"
        self.api = f"http://127.0.0.1:{ports['PREFECT_PORT']}/api"
        self.dashboard = f"http://127.0.0.1:{ports['DASK_DASHBOARD_PORT']}"

    def make(self, target: str) -> str:
        command = ["make", "--assume-old=.venv/installed", target]
        made = subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, check=False)
        assert made.returncode == 0, made.stdout + made.stderr + self.logs()
        return made.stdout

    def local(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "infra.local", *arguments]
        ended = subprocess.run(command, cwd=CHECKOUT, env=self.environment, capture_output=True, text=True, check=False)
        assert ended.returncode == 0, ended.stdout + ended.stderr + self.logs()

    def save_block(self, slug: str, url: str) -> None:
        """Make a block of the server that notifies a URL, as one does in the UI."""
        saved = (
            "import sys; from prefect.blocks.notifications import CustomWebhookNotificationBlock as Block;"
            "Block(name='ops', url=sys.argv[2], json_data={'text': 'by block: {{subject}}'}).save(sys.argv[1])"
        )
        environment = self.environment | {"PREFECT_API_URL": self.api}
        subprocess.run([sys.executable, "-c", saved, slug, url], env=environment, check=True)

    def take_keys(self) -> None:
        """Let this process use the S3 server."""
        os.environ |= {name: value for name, value in dotenv_values(self.home / "secrets.env").items() if value}

    def at(self, url: str) -> Location:
        return Location(url=url, endpoint_url=self.endpoint)

    @property
    def supervisor(self) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self.home}/supervisor.sock")
        return ServerProxy("http://127.0.0.1", transport=transport).supervisor

    def process(self, name: str) -> psutil.Process:
        return psutil.Process(self.supervisor.getProcessInfo(name)["pid"])

    def process_of(self, run: str) -> psutil.Process:
        """The process that a flow run runs in."""
        for child in self.process("prefect-worker").children(recursive=True):
            if child.environ().get("PREFECT__FLOW_RUN_ID") == run:
                return child
        raise AssertionError(f"run {run} has no process")

    @property
    def tasks_at_work(self) -> int:
        counts = json.load(urllib.request.urlopen(f"{self.dashboard}/json/counts.json", timeout=10))
        return int(counts["processing"])

    def ask(self, path: str, content: Any = None, method: str | None = None) -> Any:
        data = None if content is None else json.dumps(content).encode()
        request = urllib.request.Request(
            f"{self.api}/{path}", data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            body = answer.read()
        return json.loads(body) if body else None

    def deployment(self, name: str) -> Any:
        return self.ask(f"deployments/name/{name}")

    def start(self, name: str, **parameters: Any) -> str:
        """Run a deployment as the UI's button does; return the run."""
        run = self.ask(f"deployments/{self.deployment(name)['id']}/create_flow_run", {"parameters": parameters})
        return str(run["id"])

    def state(self, run: str) -> Any:
        return self.ask(f"flow_runs/{run}")["state"]

    def end(self, run: str, seconds: float = 240) -> str:
        """Wait for the end of a run; return its state's type."""
        try:
            wait(lambda: self.state(run)["type"] in ENDED, seconds)
        except AssertionError as error:
            raise AssertionError(f"{self.state(run)}\n{self.log(run)}") from error
        return str(self.state(run)["type"])

    def log(self, run: str) -> str:
        lines = self.ask("logs/filter", {"logs": {"flow_run_id": {"any_": [run]}}, "limit": 200})
        return "\n".join(line["message"] for line in lines)

    def artifacts(self, run: str) -> dict[str, Any]:
        found = self.ask("artifacts/filter", {"artifacts": {"flow_run_id": {"any_": [run]}}})
        return {artifact["key"]: artifact["data"] for artifact in found}

    def logs(self) -> str:
        logs = sorted((self.home / "log").glob("*.log"))
        return "".join(f"\n== {log.name}\n{log.read_text()[-1500:]}" for log in logs)


def wait(condition: Callable[[], Any], seconds: float = 120) -> float:
    """Wait for something; return how long it took."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds * PATIENCE, f"did not happen in {seconds:.0f} s"
        time.sleep(0.2)
    return time.monotonic() - began


@contextmanager
def receiver() -> Iterator[tuple[str, list[str]]]:
    """A web server that takes what webhooks send: its URL, and the texts that have come."""
    texts: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            texts.append(json.loads(body)["text"])
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/alerts", texts
    finally:
        server.shutdown()


def print_table(times: dict[str, float]) -> None:
    width = max(map(len, times), default=0)
    sys.stdout.write("\n" + "".join(f"{what:{width}}  {seconds:6.1f} s\n" for what, seconds in times.items()))
