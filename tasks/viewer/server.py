"""The server of `cohortlens view`: the page, and the outputs that it reads, to whoever knows the token.

The token is the first step of every path, so that relative addresses carry it, and Zarr readers need no header. Who
knows an address may read, from pages of whatever origin (CORS); ratings are taken from the server's own pages alone.
"""

import hmac
import html
import logging
import os
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import MutableHeaders
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from models.errors import ConfigurationError
from tasks.plan.plan import begun
from tasks.ratings.inbox import Refused, own_ratings, take
from tasks.ratings.rating import LARGEST
from tasks.storage.location import Location, nameless
from tasks.viewer.files import answer, find, find_of_page

PAGE = Path(__file__).with_name("page")
"""The built page of this package."""

LOOPBACK = ("127.0.0.1", "localhost")

_APART = "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; style-src 'self'; img-src 'self' blob: data:; "
    f"connect-src 'self'; worker-src 'self' blob:; {_APART}"
)
"""The Content-Security-Policy of the page, and of all that is no page."""

REPORT_POLICY = (
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src 'self' data:; "
    f"sandbox allow-scripts allow-downloads allow-popups allow-popups-to-escape-sandbox; {_APART}"
)
"""That of the report, which holds its script and styles: they run in a sandbox, and can read nothing."""

_HEADERS = {
    "content-security-policy": PAGE_POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "cross-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "cache-control": "private, no-cache",
}

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Served:
    """The outputs that are served: one, or all that lie in a folder or prefix, whenever they come there."""

    root: Location
    page: Path
    _known: dict[str, Location] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The last step of where they lie."""
        return self.root.url.rstrip("/").rpartition("/")[2]

    def names(self) -> list[str]:
        if begun(self.root):
            return [self.name]
        try:
            there = self.root.filesystem.ls(self.root.path, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return []
        folders = [facts["name"].rstrip("/").rpartition("/")[2] for facts in there if facts["type"] == "directory"]
        return sorted(name for name in folders if begun(self.root / name))

    def find(self, name: str) -> Location | None:
        """Find an output by its name; what was found is not looked for again."""
        if name not in self._known and name not in (".", "..") and "\0" not in name:
            places = ([self.root] if name == self.name else []) + [self.root / name]
            self._known.update((name, place) for place in reversed(places) if self._may_be_read(place) and begun(place))
        return self._known.get(name)

    def _may_be_read(self, place: Location) -> bool:
        """Tell whether a place is what was named to the server, or lies below it; links lead elsewhere."""
        return place == self.root or not (place.is_local and os.path.islink(place.path))

    def listing(self, request: Request) -> Response:
        """Answer with the names of the outputs."""
        return HTMLResponse(_listing(self.names()))

    def file(self, request: Request) -> Response:
        """Answer with a file: of the page, whose own goes before that of an output, or of an output."""
        name, path = request.path_params["output"], request.path_params.get("path", "")
        output = self.find(name)
        if output is None:
            return _missing("there is no such output here")
        if path in ("", "viewer", "viewer/"):
            return RedirectResponse(f"{request.scope['root_path']}/{quote(name, safe='')}/viewer/index.html", 303)
        folder, _, inside = path.partition("/")
        found = (find_of_page(self.page, inside) if folder == "viewer" else None) or find(output, path)
        if found is None:
            is_built = (self.page / "index.html").exists()
            return _missing("no such file" if folder != "viewer" or is_built else "no page is built: run `make viewer`")
        response = answer(request, found)
        if folder == "report":
            response.headers["content-security-policy"] = REPORT_POLICY
        return response

    async def ratings(self, request: Request) -> Response:
        """Save a rating, or list those of a rater."""
        output = await run_in_threadpool(self.find, request.path_params["output"])
        if output is None:
            return _missing("there is no such output here")
        return await (_save(request, output) if request.method == "POST" else _list(request, output))


def make_app(root: Location, token: str, hosts: tuple[str, ...] = LOOPBACK, page: Path = PAGE) -> ASGIApp:
    """Make the server of an output, or of all outputs in a folder or prefix.

    Parameters
    ----------
    token
        Letters, digits, ``-`` and ``_``: what readers have to know.
    hosts
        Names by which it may be called, so that no foreign name leads a browser here (DNS rebinding); ``*``: any.
    page
        The folder of the built page.
    """
    served = _Served(root, page)
    routes = [
        Route("/", served.listing),
        Route("/{output}/ratings", served.ratings, methods=["GET", "POST"]),
        Route("/{output}/{path:path}", served.file),
        Route("/{output}", served.file),
    ]
    to_listing = Route(f"/{token}", lambda request: RedirectResponse(f"{token}/", 307))
    readable = ["accept-ranges", "content-length", "content-range", "etag"]
    cors = Middleware(
        CORSMiddleware,
        allow_origins=["*"],
        allow_methods=["GET", "HEAD"],
        allow_headers=["range", "if-range", "if-none-match"],
        expose_headers=readable,
    )
    app = Starlette(
        routes=[to_listing, Mount(f"/{token}", routes=routes)],
        middleware=[cors],
        exception_handlers={OSError: _storage_failed, ConfigurationError: _unreadable},
    )
    return _Headers(TrustedHostMiddleware(_Token(app, token), allowed_hosts=list(hosts), www_redirect=False))


class _Token:
    """Answers nothing but to those who know the token, in a time that tells nothing of it."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._token = app, token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        _, _, below = scope["path"].partition("/")  # a target without a slash, such as *, has nothing below
        given = below.partition("/")[0] if scope["type"] == "http" else ""
        knows = hmac.compare_digest(given.encode(), self._token)
        await (self._app if knows else _missing("open the whole address that `cohortlens view` says"))(
            scope, receive, send
        )


class _Headers:
    """Gives every answer the headers that keep other pages out."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        await self._app(scope, receive, send_with)


async def _save(request: Request, output: Location) -> Response:
    """Save a rating of a page of this server: 201, or 400, 403, 409, 413 and 415 with the reason in words."""
    if not _is_own(request):
        return PlainTextResponse("ratings are taken from the viewer of this server alone", 403)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        return PlainTextResponse("a rating is sent as application/json", 415)
    data = bytearray()
    try:
        async for chunk in request.stream():
            data += chunk
            if len(data) > LARGEST:
                return PlainTextResponse(f"a rating has at most {LARGEST} bytes", 413)
    except ClientDisconnect:
        return PlainTextResponse("the rating did not come whole", 400)
    try:
        rating = await run_in_threadpool(take, output, bytes(data))
    except Refused as refused:
        return PlainTextResponse(str(refused), refused.status)
    return JSONResponse({"id": rating.id}, 201)


def _is_own(request: Request) -> bool:
    """Tell whether a request comes from a page of this server, or from no page."""
    origin = request.headers.get("origin")
    return origin is None or origin.partition("://")[2] == request.headers.get("host")


async def _list(request: Request, output: Location) -> Response:
    """List what one rater has said of an image."""
    asked = request.query_params
    if not asked.get("image_id") or not asked.get("rater"):
        return PlainTextResponse("say which: ?image_id=…&rater=…", 400)
    found = await run_in_threadpool(own_ratings, output, asked["image_id"], asked["rater"])
    return JSONResponse([rating.model_dump(mode="json") for rating in found])


def _listing(names: list[str]) -> str:
    items = "".join(
        f'<li><a href="{html.escape(quote(name, safe=""))}/viewer/index.html">{html.escape(name)}</a></li>'
        for name in names
    )
    found = f"<ul>{items}</ul>" if names else "<p>There is no output here yet.</p>"
    return f'<!doctype html><html lang="en"><meta charset="utf-8"><title>Outputs</title><h1>Outputs</h1>{found}</html>'


def _missing(why: str) -> Response:
    return PlainTextResponse(why, 404)


def _unreadable(request: Request, error: Exception) -> Response:
    return PlainTextResponse(str(error), 409)


def _storage_failed(request: Request, error: Exception) -> Response:
    if isinstance(error, FileNotFoundError):
        return _missing("it is not there any more: load the page again")
    logger.warning("%s", nameless(error, "what was asked for cannot be read or written"))
    if isinstance(error, PermissionError):
        return PlainTextResponse("the storage does not let this be read", 403)
    return PlainTextResponse(f"the storage does not answer ({type(error).__name__})", 503)
