"""Prefect, as a command shows it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import click

from flows import logs

if TYPE_CHECKING:
    from tasks.storage.location import Location


@contextmanager
def shown_in_prefect(server_url: str, output: "Location") -> Iterator[None]:
    """Say where Prefect shows a run, and hand it the last of the run's log; a run that is done may end without it."""
    import httpx
    from prefect.logging.handlers import APILogHandler

    from flows.errors import Stopped
    from flows.run import done
    from flows.server import password_file

    secret = password_file(server_url)
    asks = f", with the password in {secret}" if secret.exists() else ""
    click.echo(f"Prefect: {server_url.removesuffix('/api')}{asks}", err=True)
    logs.set_up_prefect()
    try:
        yield
    except httpx.HTTPError as error:
        if output.url not in done:
            raise Stopped(
                f"Prefect's server does not answer ({type(error).__name__}): start it, and run again to go on"
            ) from error
        click.echo("the run is done; but Prefect's server, which was away when it ended, does not know", err=True)
    finally:
        APILogHandler().flush()
