"""A SLURM site of one machine: munge, its controller and one node, from Debian's packages slurm-wlm and munge."""

import getpass
import os
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

_CONFIGURATION = """
ClusterName=site
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmdPort={node}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/jobs.txt
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SlurmdParameters=config_overrides
KillWait=5
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory={memory} State=UNKNOWN
PartitionName={partition} Nodes={host} MaxTime=08:00:00 State=UP
"""


@contextmanager
def slurm_site(folder: Path, partition: str, cpus: int, memory: int) -> Iterator[None]:
    """Run a site for the body, which SLURM's commands find by the environment variable ``SLURM_CONF``.

    Parameters
    ----------
    partition
        The name of its only partition.
    cpus, memory
        Cores and MiB of memory that its only node claims to have.
    """
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o400)
    configuration = folder / "slurm.conf"
    with _free_port() as controller, _free_port() as node:
        ports = {"controller": controller, "node": node}
    configuration.write_text(
        _CONFIGURATION.format(
            host=socket.gethostname().partition(".")[0],
            user=getpass.getuser(),
            folder=folder,
            cpus=cpus,
            memory=memory,
            partition=partition,
            **ports,
        )
    )
    os.environ["SLURM_CONF"] = str(configuration)
    munged = ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={folder}/munge.socket"]
    munged += [f"--{name}-file={folder}/munge.{name}" for name in ("pid", "log", "seed")]
    with ExitStack() as running:
        for command in (munged, ["slurmctld", "-D"], ["slurmd", "-D"]):
            running.enter_context(_running(command, folder / f"{command[0]}.log"))
        _wait_until_idle(folder)
        try:
            yield
        finally:
            subprocess.run(["scancel", "--user", getpass.getuser()], check=False)
            del os.environ["SLURM_CONF"]


@contextmanager
def _running(command: list[str], log: Path) -> Iterator[None]:
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)


@contextmanager
def _free_port() -> Iterator[int]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        yield int(probe.getsockname()[1])


def _wait_until_idle(folder: Path) -> None:
    for _ in range(120):
        state = subprocess.run(["sinfo", "--noheader", "--format=%t"], capture_output=True, text=True, check=False)
        if state.stdout.strip() == "idle":
            return
        time.sleep(0.5)
    logs = "\n".join(log.read_text(errors="replace")[-1500:] for log in folder.glob("*.log"))
    raise RuntimeError(f"the SLURM site is {state.stdout.strip() or state.stderr}, not idle:\n{logs}")
