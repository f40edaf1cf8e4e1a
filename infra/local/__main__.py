"""The topology on this machine: its processes, started in order, watched by supervisor, and stopped again.

What is kept between starts, logs and secrets lie below ``.cohortlens/up``, or in the folder that ``UP_HOME`` names.
"""

import os
import subprocess
import sys
import time
from pathlib import Path

import click

from infra.local.backup import check_backup, restore_buckets, restore_database, write_backup
from infra.local.health import CHECKS, Check
from infra.local.postgres import create_database, find_postgres, set_up_data
from infra.local.settings import HOME, environment

_START_SECONDS = 180
_CONFIGURATION = "infra/local/supervisord.conf"


@click.group()
def main() -> None:
    """PostgreSQL, Prefect, SeaweedFS, Dask and the viewer on this machine."""


@main.command()
def up() -> None:
    """Start what is not running yet, wait until all is well, and say where everything is."""
    began = time.monotonic()
    os.environ |= environment()
    (HOME / "log").mkdir(mode=0o700, parents=True, exist_ok=True)
    (HOME / "seaweedfs").mkdir(mode=0o700, exist_ok=True)
    find_postgres()
    set_up_data()
    if not _is_running():
        subprocess.run([sys.executable, "-m", "supervisor.supervisord", "-c", _CONFIGURATION], check=True)
    _wait("postgres")
    create_database()
    _supervisorctl("start", "prefect-server")
    _wait("seaweedfs")
    _supervisorctl("start", "view")
    for check in CHECKS:
        if check.program not in ("postgres", "seaweedfs", "prefect-worker"):
            _wait(check.program)
    _supervisorctl("start", "prefect-worker")
    _wait("prefect-worker")
    click.echo(f"up in {time.monotonic() - began:.0f} s; data, logs and secrets are in {HOME}")
    _show_pages()


@main.command()
def down() -> None:
    """Stop everything, last started first. What is stored stays."""
    os.environ |= environment()
    if not _is_running():
        click.echo("nothing is running")
        return
    supervisord = int((HOME / "supervisord.pid").read_text())
    _supervisorctl("shutdown")
    while _exists(supervisord):
        time.sleep(0.1)
    click.echo(f"down; what is stored stays in {HOME}")


@main.command()
def status() -> None:
    """Say how each process is; exit code 1 if one is not well."""
    os.environ |= environment()
    find_postgres()
    well = True
    for check in CHECKS:
        problem = check.problem()
        well = well and not problem
        click.echo(f"{check.program:16}{problem or 'well'}")
    if well:
        _show_pages()
    sys.exit(0 if well else 1)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def backup(folder: Path) -> None:
    """Write database, buckets and secrets into a new FOLDER, while all is up and no run is at work."""
    os.environ |= environment()
    find_postgres()
    began = time.monotonic()
    write_backup(folder)
    click.echo(f"{folder} written in {time.monotonic() - began:.0f} s; it holds the secrets")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
def restore(folder: Path) -> None:
    """Replace the database by that of FOLDER, and put back what its buckets hold, while all is up."""
    os.environ |= environment()
    find_postgres()
    check_backup(folder)
    began = time.monotonic()
    _supervisorctl("stop", "prefect-worker", "prefect-server")
    restore_database(folder)
    restore_buckets(folder)
    for program in ("prefect-server", "prefect-worker"):
        _supervisorctl("start", program)
        _wait(program)
    click.echo(f"restored from {folder} in {time.monotonic() - began:.0f} s")


def _wait(program: str) -> None:
    check: Check = next(check for check in CHECKS if check.program == program)
    deadline = time.monotonic() + _START_SECONDS
    while problem := check.problem():
        if time.monotonic() > deadline:
            raise click.ClickException(
                f"{program} is not well after {_START_SECONDS} s: {problem}; see {HOME}/log/{program}*.log, "
                "and `make down` to stop the others"
            )
        time.sleep(0.3)
    click.echo(f"{program:16}is well", err=True)


def _show_pages() -> None:
    click.echo(f"Prefect         {os.environ['PREFECT_API_URL'].removesuffix('/api')}")
    click.echo(f"Dask            http://127.0.0.1:{os.environ['DASK_DASHBOARD_PORT']}/status")
    click.echo(f"Outputs         {os.environ['COHORTLENS_VIEW_URL']}/")
    click.echo(f"S3              {os.environ['S3_ENDPOINT_URL']}, keys in {HOME}/secrets.env")


def _is_running() -> bool:
    return _supervisorctl("pid", check=False) == 0


def _supervisorctl(*arguments: str, check: bool = True) -> int:
    command = [sys.executable, "-m", "supervisor.supervisorctl", "-c", _CONFIGURATION, *arguments]
    ended = subprocess.run(command, check=False, capture_output=True, text=True)
    if check and ended.returncode and "already started" not in ended.stdout:
        raise click.ClickException(f"supervisorctl {' '.join(arguments)}: {ended.stdout}{ended.stderr}")
    return ended.returncode


def _exists(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    return True


if __name__ == "__main__":
    main()
