"""A backup of the topology, as a folder of files: Prefect's database, both buckets, and the secrets."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import click
from dotenv import dotenv_values

from infra.local.settings import HOME
from tasks.storage.location import Location

_DUMP = "prefect.dump"
_SECRETS = "secrets.env"
_KEY = "COHORTLENS_PSEUDONYM_KEY"
_AT_ONCE = 8


def write_backup(folder: Path) -> None:
    """Write everything that is stored into a new folder, which nobody else may enter: it holds the secrets."""
    if folder.exists():
        raise click.UsageError(f"{folder} is there already: name a new folder, so that no backup is overwritten")
    folder.mkdir(parents=True, mode=0o700)
    shutil.copy2(HOME / _SECRETS, folder)
    _postgres("pg_dump", "--format", "custom", "--file", str(folder / _DUMP), "--dbname", os.environ["POSTGRES_DB"])
    for name, bucket in _buckets():
        _copy(bucket, Location(url=str(folder / name)))


def check_backup(folder: Path) -> None:
    """Refuse a folder that holds no backup, or that of a topology with another key of pseudonyms."""
    if lacking := [name for name in (_DUMP, _SECRETS) if not (folder / name).exists()]:
        raise click.UsageError(f"{folder} holds no backup: {', '.join(lacking)} is not there")
    kept, here = (dotenv_values(place / _SECRETS)[_KEY] for place in (folder, HOME))
    if kept != here:
        raise click.UsageError(
            f"the {_KEY} of {folder} is not that of {HOME}, so that its outputs could not be gone on with: copy its "
            f"{_SECRETS} there before the first `make up`"
        )


def restore_database(folder: Path) -> None:
    """Replace Prefect's database, which nothing may be connected to."""
    database = os.environ["POSTGRES_DB"]
    _postgres("dropdb", "--if-exists", "--force", database)
    _postgres("createdb", database)
    _postgres("pg_restore", "--exit-on-error", "--no-owner", "--dbname", database, str(folder / _DUMP))


def restore_buckets(folder: Path) -> None:
    """Put back what the buckets held; what came to them since stays beside."""
    for name, bucket in _buckets():
        _copy(Location(url=str(folder / name)), bucket)


def _buckets() -> Iterator[tuple[str, Location]]:
    for name in (os.environ["COHORTS_BUCKET"], os.environ["RESULTS_BUCKET"]):
        yield name, Location(url=f"s3://{name}", endpoint_url=os.environ["S3_ENDPOINT_URL"])


def _copy(source: Location, target: Location) -> None:
    def copy(name: str) -> None:
        (target / name).write((source / name).read())

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(copy, source.sizes()))


def _postgres(program: str, *arguments: str) -> None:
    command = [f"{os.environ['POSTGRES_BIN']}/{program}", "--host", "127.0.0.1"]
    command += ["--port", os.environ["POSTGRES_PORT"], "--username", os.environ["POSTGRES_USER"], *arguments]
    environment = os.environ | {"PGPASSWORD": os.environ["POSTGRES_PASSWORD"]}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise click.ClickException(f"{program}: {ended.stderr.strip()}")
