"""A browser, an output that is served on loopback, and a page that notices what should not happen."""

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Page, Request, expect, sync_playwright
from starlette.applications import Starlette
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from flows.config import RunConfig
from flows.demo import demo_content
from tasks import run
from tasks.storage.location import Location
from tests.debian import needed

Serve = Callable[[Path | ASGIApp], str]


_MILLISECONDS = 60_000
"""What is waited for, where the machine is busy, before it is said not to happen."""

expect.set_options(timeout=_MILLISECONDS)


@pytest.fixture(scope="package")  # its event loop must not run on under the tests of other packages
def browser() -> Iterator[Browser]:
    needed("/usr/share/fonts/truetype/dejavu/DejaVuSans.ttf", "fonts-dejavu-core")  # chromium brings no fonts
    chromium = needed("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", "--disable-gpu"])
        yield started
        started.close()


@pytest.fixture(scope="session")
def demo(slices: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished output of the demo cohort in two dimensions, as small as it gets."""
    output = tmp_path_factory.mktemp("viewer") / "demo"
    config = RunConfig.model_validate(demo_content(str(slices), str(output), spatial_dims=2))
    run.run(config.recipe.model_copy(update={"batch_size": 8}), Location(url=str(output)))
    return output


@pytest.fixture(scope="session")
def serve() -> Iterator[Serve]:
    """Serve a folder as any web server does, or what an app makes of it, and say where."""
    apps = Starlette()
    with listening(apps) as address:

        def served(what: Path | ASGIApp) -> str:
            name = str(len(apps.routes))
            app = StaticFiles(directory=what, html=True) if isinstance(what, Path) else what
            apps.routes.append(Mount(f"/{name}", app))
            return f"{address}/{name}"

        yield served


@contextmanager
def listening(app: ASGIApp) -> Iterator[str]:
    """Run a server on loopback, and say its address."""
    with socket.create_server(("127.0.0.1", 0)) as opened:
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [opened]}, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{opened.getsockname()[1]}"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="package")
def desk(browser: Browser) -> Iterator[BrowserContext]:
    """A window of a desk's size, with an empty page that keeps its processes alive: they take a second to start."""
    with browser.new_context(viewport={"width": 1400, "height": 900}) as context:
        context.new_page()
        yield context


@pytest.fixture
def page(desk: BrowserContext) -> Iterator[Page]:
    """A page of a desk's size. Errors in its console, and requests to anywhere but loopback, fail the test."""
    with watched(desk) as page:
        yield page
        page.evaluate("origin === 'null' || localStorage.clear()")  # reports have no storage


@contextmanager
def watched(context: BrowserContext) -> Iterator[Page]:
    """Open a page for the body, and fail if anything went wrong in it that it did not say."""
    page = context.new_page()
    page.set_default_timeout(_MILLISECONDS)
    wrong: list[str] = []
    page.on("console", lambda said: wrong.append(said.text) if _is_fault(said) else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: wrong.append(request.url) if _is_foreign(request) else None)
    yield page
    page.close()
    assert not wrong


def _is_fault(said: ConsoleMessage) -> bool:
    return said.type == "error" and "Failed to load resource" not in said.text  # what is not there is asked for


def _is_foreign(request: Request) -> bool:
    return not request.url.startswith(("http://127.0.0.1:", "data:", "blob:"))
