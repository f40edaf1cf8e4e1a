"""The process of `cohortlens view`: a port, a token, and a browser that is told of both."""

import errno
import re
import secrets
import socket
import webbrowser
from collections.abc import Callable
from urllib.parse import quote

import uvicorn

from models.errors import ConfigurationError
from tasks.plan.plan import begun
from tasks.storage.location import Location
from tasks.viewer.server import LOOPBACK, make_app

_TOKEN = re.compile(r"[A-Za-z0-9_-]{32,}")


def serve(
    root: Location, host: str, port: int, token: str | None, *, say: Callable[[str], object], opens: bool = False
) -> None:
    """Serve an output, or all outputs in a folder or prefix, until the process is interrupted or terminated.

    Parameters
    ----------
    host
        Where to listen; anything but this machine's own address needs a token that was given.
    port
        0: one that is free.
    token
        What readers have to know; None: it is drawn.
    say
        Told the address.
    opens
        Whether a browser is opened.

    Raises
    ------
    ConfigurationError
        If the port is taken or not ours, the host is none, or the token is missing or too short.
    """
    _check(token, host)
    hosts = LOOPBACK if host in LOOPBACK else ("*",)
    own = token or secrets.token_urlsafe(32)
    with _listening(host, port) as listening:
        name = quote(root.url.rstrip("/").rpartition("/")[2], safe="")
        page = f"{name}/viewer/index.html" if begun(root) else ""
        origin = f"http://{f'[{host}]' if ':' in host else host}:{listening.getsockname()[1]}"
        say(f"{origin}/{'<the token>' if token else own}/{page}")  # what was given stays out of logs
        if opens:
            webbrowser.open(f"{origin}/{own}/{page}")  # it waits until the server takes what has come to the socket
        config = uvicorn.Config(
            make_app(root, own, hosts),
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            lifespan="off",
            timeout_graceful_shutdown=2,
        )
        uvicorn.Server(config).run(sockets=[listening])


def _check(token: str | None, host: str) -> None:
    if token is not None and not _TOKEN.fullmatch(token):
        raise ConfigurationError(
            "the token is not 32 letters, digits, - and _ or more: `openssl rand -hex 32` makes one"
        )
    if token is None and host not in LOOPBACK:
        raise ConfigurationError(
            f"listening on {host} lets other machines in, and needs a token: set COHORTLENS_VIEW_TOKEN, such as by "
            "`openssl rand -hex 32`"
        )


def _listening(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listening = socket.socket(family, socket.SOCK_STREAM)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((host, port))
        listening.listen(128)
    except OSError as error:
        listening.close()
        if error.errno == errno.EADDRINUSE:
            raise ConfigurationError(f"port {port} is in use: name another, or none") from error
        raise ConfigurationError(f"{host}, port {port} cannot be listened on: {error.strerror or error}") from error
    return listening
