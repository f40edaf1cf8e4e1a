"""The settings of the processes: infra/settings.env, secrets made at the first start, and what follows from them."""

import getpass
import os
import secrets
import sys
from pathlib import Path

from dask.system import CPU_COUNT
from dotenv import dotenv_values

from flows.forked import worker_environment
from flows.server import keep_inside

_CHECKOUT = Path(__file__).resolve().parents[2]
HOME = Path(os.environ.get("UP_HOME", _CHECKOUT / ".cohortlens/up")).resolve()
_SECRETS = (
    "POSTGRES_PASSWORD",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "COHORTLENS_PSEUDONYM_KEY",
    "COHORTLENS_VIEW_TOKEN",
)
_SEAWEEDFS_PORTS = ("S3_MASTER_PORT", "S3_VOLUME_PORT", "S3_FILER_PORT", "S3_ADMIN_PORT")


def shared() -> dict[str, str]:
    """infra/settings.env, and what the caller's environment says, which goes before it."""
    told = {name: value for name, value in dotenv_values(_CHECKOUT / "infra/settings.env").items() if value}
    return told | os.environ


def environment() -> dict[str, str]:
    """The environment of every process on this machine."""
    keep_inside(HOME)
    told = shared() | _secrets()
    port = int(told["S3_PORT"])
    told |= {name: told.get(name) or str(port + 1 + number) for number, name in enumerate(_SEAWEEDFS_PORTS)}
    password, user, database = (told[f"POSTGRES_{name}"] for name in ("PASSWORD", "USER", "DB"))
    threads = max(1, CPU_COUNT // int(told["DASK_WORKERS"]))
    return told | {
        "UP_HOME": str(HOME),
        "COHORTLENS_CHECKOUT": str(_CHECKOUT),
        "UP_BIN": str(Path(sys.executable).parent),
        "UP_USER": getpass.getuser(),
        "S3_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "DASK_SCHEDULER_ADDRESS": f"tcp://127.0.0.1:{told['DASK_SCHEDULER_PORT']}",
        "DASK_WORKER_ENVIRONMENT": ",".join(f'{name}="{value}"' for name, value in worker_environment(threads).items()),
        "COHORTLENS_VIEW_ROOT": f"s3://{told['RESULTS_BUCKET']}",
        "COHORTLENS_VIEW_URL": f"http://127.0.0.1:{told['VIEW_PORT']}/{told['COHORTLENS_VIEW_TOKEN']}",
        "PREFECT_API_URL": f"http://127.0.0.1:{told['PREFECT_PORT']}/api",
        "PREFECT_API_DATABASE_CONNECTION_URL": (
            f"postgresql+asyncpg://{user}:{password}@127.0.0.1:{told['POSTGRES_PORT']}/{database}"
        ),
        "PYTHONPATH": os.pathsep.join(filter(None, (str(_CHECKOUT), os.environ.get("PYTHONPATH")))),
    }


def _secrets() -> dict[str, str]:
    """Read the secrets, and make those that are not there yet: all at the first start, new ones after an upgrade.

    The pseudonym key, once lost, makes outputs that cannot be gone on with.
    """
    HOME.mkdir(parents=True, exist_ok=True)
    file = HOME / "secrets.env"
    os.close(os.open(file, os.O_CREAT | os.O_APPEND, 0o600))
    if made := "".join(f"{name}={secrets.token_hex(24)}\n" for name in _SECRETS if name not in dotenv_values(file)):
        with file.open("a") as kept:
            kept.write(made)
    return {name: value for name, value in dotenv_values(file).items() if value}
