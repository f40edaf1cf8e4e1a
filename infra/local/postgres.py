"""PostgreSQL of Debian's package, with its data in a folder of ours."""

import getpass
import os
import shutil
import subprocess
from pathlib import Path
from tempfile import NamedTemporaryFile

import click

from infra.local.settings import HOME

_DATA = HOME / "postgres"


def find_postgres() -> None:
    """Put the folder of PostgreSQL's programs and the user that it runs as into the environment; install it if need be.

    It refuses to run as root, which lends it the user of the package then.
    """
    root = os.geteuid() == 0
    if not (found := _programs()) and root and shutil.which("apt-get"):
        click.echo("PostgreSQL is not installed: installing Debian's package", err=True)
        subprocess.run(["apt-get", "install", "--yes", "--quiet", "--no-install-recommends", "postgresql"], check=True)
        found = _programs()
    if not found:
        raise click.ClickException("PostgreSQL is not installed: `apt-get install postgresql`, or put it into PATH")
    os.environ["POSTGRES_BIN"] = str(found)
    os.environ["POSTGRES_RUNS_AS"] = "postgres" if root else getpass.getuser()


def set_up_data() -> None:
    """Make the folder of databases, unless it is there."""
    if os.environ["POSTGRES_RUNS_AS"] != getpass.getuser():
        for folder in (HOME, *[parent for parent in HOME.parents if parent.name == ".cohortlens"]):
            folder.chmod(folder.stat().st_mode & 0o7777 | 0o011)  # to pass through, and list nothing
    if (_DATA / "PG_VERSION").exists():
        return
    user, runs_as = os.environ["POSTGRES_USER"], os.environ["POSTGRES_RUNS_AS"]
    _DATA.mkdir(exist_ok=True)
    shutil.chown(_DATA, runs_as)
    with NamedTemporaryFile("w") as password:
        password.write(os.environ["POSTGRES_PASSWORD"])
        password.flush()
        shutil.chown(password.name, runs_as)
        command = [f"{os.environ['POSTGRES_BIN']}/initdb", "-D", str(_DATA), "--username", user, "--encoding", "UTF8"]
        command += ["--locale", "C.UTF-8", "--auth", "scram-sha-256", "--pwfile", password.name]
        made = subprocess.run(command, user=runs_as, cwd="/", capture_output=True, text=True, check=False)
    if made.returncode:
        raise click.ClickException(
            f"the database cannot be made in {_DATA}: {made.stderr.strip()}. User {runs_as} must be able to reach it"
        )


def create_database() -> None:
    """Make Prefect's database, unless it is there."""
    port, user, database = (os.environ[f"POSTGRES_{name}"] for name in ("PORT", "USER", "DB"))
    command = [f"{os.environ['POSTGRES_BIN']}/createdb", "--host", "127.0.0.1", "--port", port, "--username", user]
    environment = os.environ | {"PGPASSWORD": os.environ["POSTGRES_PASSWORD"]}
    made = subprocess.run([*command, database], env=environment, capture_output=True, text=True, check=False)
    if made.returncode and "already exists" not in made.stderr:
        raise click.ClickException(f"the database {database} cannot be made: {made.stderr.strip()}")


def _programs() -> Path | None:
    packaged = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    if found := max(packaged, key=lambda path: int(path.parts[-3]), default=None) or shutil.which("postgres"):
        return Path(found).resolve().parent
    return None
