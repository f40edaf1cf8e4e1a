"""A proxy before an S3 server that answers a share of the requests as a bad day would have it."""

import asyncio
import random
import threading
from collections import Counter
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from aiohttp import ClientSession, DummyCookieJar, web
from yarl import URL

FAULTS = ("500", "503", "reset", "lost answer", "stall", "short body")

_ERROR = '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{}</Code><Message>{}</Message></Error>'
_ANSWERS = {
    "500": (500, "InternalError", "We encountered an internal error. Please try again."),
    "503": (503, "SlowDown", "Please reduce your request rate."),
}
_HOP_BY_HOP = {"connection", "keep-alive", "transfer-encoding", "content-length"}


class FaultyS3:
    """A server that hands requests on to `upstream`, and fails a share of them, or all.

    Attributes
    ----------
    faults
        The members of `FAULTS` that happen.
    share
        The share of the requests that fail; they are drawn from `seed`.
    stall
        Seconds for which a stalled request is held before its connection is closed.
    expires_after
        Requests after which all are answered with ExpiredToken.
    requests, injected
        Requests seen, and faults by kind.
    """

    def __init__(self, upstream: str, seed: int = 0) -> None:
        self.faults: Sequence[str] = FAULTS
        self.share = 0.0
        self.stall = 4.0
        self.expires_after: int | None = None
        self.requests = 0
        self.injected: Counter[str] = Counter()
        self._random = random.Random(seed)
        self._upstream = upstream
        self._loop = asyncio.new_event_loop()
        self._site: web.TCPSite | None = None
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._port}"

    @contextmanager
    def serving(self) -> Iterator["FaultyS3"]:
        thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        thread.start()
        self._do(self._start)
        try:
            yield self
        finally:
            self._do(self._stop)
            self._loop.call_soon_threadsafe(self._loop.stop)
            thread.join()

    def go_away(self) -> None:
        """Refuse connections, and break those that there are."""
        self.injected["away"] += 1
        self._do(self._stop)

    def come_back(self) -> None:
        self._do(self._start)

    def _do(self, what: Callable[[], Coroutine[Any, Any, None]]) -> None:
        asyncio.run_coroutine_threadsafe(what(), self._loop).result(60)

    async def _start(self) -> None:
        self._session = ClientSession(auto_decompress=False, cookie_jar=DummyCookieJar())
        app = web.Application(client_max_size=2**30)
        app.router.add_route("*", "/{path:.*}", self._answer)
        self._runner = web.AppRunner(app, auto_decompress=False, shutdown_timeout=0)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", self._port, reuse_address=True)
        await site.start()
        self._port = self._runner.addresses[0][1]

    async def _stop(self) -> None:
        await self._runner.cleanup()
        await self._session.close()

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.requests += 1
        body = await request.read()
        if self.expires_after is not None and self.requests > self.expires_after:
            self.injected["expired token"] += 1
            return _error(403, "ExpiredToken", "The provided token has expired.")
        fault = self._random.choice(self.faults) if self._random.random() < self.share else None
        if fault:
            self.injected[fault] += 1
        if fault in _ANSWERS:
            return _error(*_ANSWERS[fault])
        if fault in ("reset", "stall"):
            await asyncio.sleep(self.stall if fault == "stall" else 0)
            return _reset(request)
        status, headers, data = await self._ask(request, body)
        if fault == "lost answer" or (fault == "short body" and (len(data) < 2 or request.method == "HEAD")):
            return _reset(request)
        if fault == "short body":
            return await _cut_short(request, status, headers, data)
        return web.Response(status=status, headers=headers, body=data)

    async def _ask(self, request: web.Request, body: bytes) -> tuple[int, dict[str, str], bytes]:
        """Hand a request on as it is: its signature covers the host that the client has named."""
        headers = [(name, value) for name, value in request.headers.items() if name.lower() not in _HOP_BY_HOP]
        headers = [(name, value) for name, value in headers if name.lower() != "expect"]
        url = URL(self._upstream + request.raw_path, encoded=True)
        async with self._session.request(
            request.method, url, headers=headers, data=body or None, allow_redirects=False
        ) as answer:
            kept = {name: value for name, value in answer.headers.items() if name.lower() not in _HOP_BY_HOP}
            if request.method == "HEAD" and "Content-Length" in answer.headers:
                kept["Content-Length"] = answer.headers["Content-Length"]
            return answer.status, kept, await answer.read()


def _error(status: int, code: str, message: str) -> web.Response:
    return web.Response(status=status, text=_ERROR.format(code, message), content_type="application/xml")


def _reset(request: web.Request) -> web.Response:
    assert request.transport
    request.transport.abort()
    return web.Response()


async def _cut_short(request: web.Request, status: int, headers: dict[str, str], data: bytes) -> web.StreamResponse:
    answer = web.StreamResponse(status=status, headers=headers)
    answer.content_length = len(data)
    await answer.prepare(request)
    await answer.write(data[: len(data) // 2])
    assert request.transport
    request.transport.close()
    return answer
