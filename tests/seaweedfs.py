"""A SeaweedFS server of our own."""

import random
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

_PORTS = ("-s3.port", "-master.port", "-volume.port", "-filer.port", "-admin.port", "-metricsPort")


@dataclass(frozen=True)
class SeaweedFS:
    """A running server: the URL of its S3 API, and where it tells its metrics."""

    endpoint: str
    metrics_url: str

    def requests(self) -> Counter[str]:
        """S3 requests that it has answered since it started, by kind."""
        with urllib.request.urlopen(self.metrics_url, timeout=60) as answer:
            told = answer.read().decode()
        found: Counter[str] = Counter()
        for kind, count in re.findall(r'^SeaweedFS_s3_request_total\{.*type="(\w+)".*\} (\S+)$', told, re.MULTILINE):
            found[kind] += int(float(count))
        return found


@contextmanager
def seaweedfs(folder: Path) -> Iterator[SeaweedFS]:
    """Run a server with its data in `folder` for the body."""
    ports = free_ports(len(_PORTS))
    command = [str(Path(sys.executable).with_name("weed")), "mini", f"-dir={folder}", "-ip=127.0.0.1"]
    command += ["-ip.bind=127.0.0.1", "-webdav=false", "-master.telemetry=false", "-s3.port.iceberg=0"]
    command += [
        "-s3.port.lance=0",
        "-s3.iam.readOnly=false",
        *(f"{flag}={port}" for flag, port in zip(_PORTS, ports, strict=True)),
    ]
    log = folder / "log.txt"
    with log.open("wb") as sink:
        server = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT, cwd=folder)
    found = SeaweedFS(f"http://127.0.0.1:{ports[0]}", f"http://127.0.0.1:{ports[-1]}/metrics")
    try:
        _wait_for(found.endpoint, server, log)
        yield found
    finally:
        server.terminate()
        server.wait(30)


def free_ports(count: int) -> list[int]:
    """Ports that are free together with their gRPC twins, which SeaweedFS puts 10000 higher.

    They are below those that Linux gives to connections, from 32768 on: one of these would be taken in the meantime.
    """
    candidates = iter(random.SystemRandom().sample(range(10_000, 22_768), 100 * count))
    return list(islice((port for port in candidates if _is_free(port) and _is_free(port + 10_000)), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _wait_for(endpoint: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    for _ in range(300):
        if server.poll() is not None:
            break
        try:
            urllib.request.urlopen(endpoint, timeout=1).close()
            return
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
    raise RuntimeError(f"SeaweedFS did not start:\n{log.read_text()[-3000:]}")
