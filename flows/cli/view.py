"""The verb that shows an output in a browser."""

import os
import sys

import click

from flows.cli.command import INTERRUPTED, command
from flows.cli.options import ENDPOINT, location_of

_TOKEN = "COHORTLENS_VIEW_TOKEN"


@command(epilog="Example: cohortlens view out/demo")
@click.argument("output")
@click.option("--port", type=click.IntRange(0, 65535), default=0, help="Port to listen on; none: one that is free.")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--no-browser", is_flag=True, help="Open no browser.")
@ENDPOINT
def view(output: str, port: int, host: str, no_browser: bool, endpoint_url: str | None) -> None:
    """Show OUTPUT, or all outputs in a folder or bucket, in a browser, and save ratings beside them.

    The address that is printed holds a token: who has it can read and rate. Another --host than this machine's own
    needs a token in COHORTLENS_VIEW_TOKEN, of 32 letters, digits, - and _ or more.
    """
    from flows.viewing import serve
    from tasks.plan.plan import begun

    location = location_of("OUTPUT", output, endpoint_url)
    if not begun(location) and not location.exists():
        raise click.UsageError(f"there is nothing at {location}: `cohortlens run` makes an output")
    try:
        serve(location, host, port, os.environ.get(_TOKEN), say=click.echo, opens=not no_browser)
    except KeyboardInterrupt:
        click.echo("stopped", err=True)
        sys.exit(INTERRUPTED)
