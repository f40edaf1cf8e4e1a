"""The flow that holds everything stored at an output against what was promised."""

from dataclasses import asdict
from typing import Annotated

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from flows.artifacts import server_may_be_away
from flows.config import described
from flows.errors import Damaged
from flows.progress import bar
from models.errors import ConfigurationError
from tasks.storage.lease import lease
from tasks.storage.location import Location
from tasks.upkeep.verify import Damage, verify

_SHOWN = 200


@flow(name="verify-output", validate_parameters=True, persist_result=False)
def verify_output(output: Annotated[Location, described("The folder or S3 prefix of a run's output")]) -> None:
    """Read everything at an output and hold it against its plan, manifest and commits.

    Raises
    ------
    Damaged
        If anything is not as promised; a table of it is an artifact of the run.
    """
    try:
        with lease(output, str(flow_run.get_id())):  # files that a run is about to write are no damage
            found = _verify(output)
    except FileNotFoundError as error:
        raise ConfigurationError(str(error)) from error
    if not found:
        return
    with server_may_be_away():
        create_table_artifact(
            table=[{name: asdict(damage)[name] for name in ("what", "where", "problem")} for damage in found[:_SHOWN]],
            key="damage",
            description=f"{len(found)} problems" + (f", of which {_SHOWN} are shown" if len(found) > _SHOWN else ""),
        )
    raise Damaged(f"{len(found)} problems at {output}: the table says which, `cohortlens verify --repair` mends them")


@task(name="verify", cache_policy=NO_CACHE, persist_result=False)
def _verify(output: Location) -> list[Damage]:
    with bar("shards verified", "shards") as progress:
        return verify(output, progress)
